"""Losses of the two stages, as sums over samples with their normalisers.

Sources: Ren et al., arXiv 1506.01497, eq. 1; He et al., arXiv 1703.06870, Section 3. All functions
take the samples of any number of images; losses are scalars [] of at least float32.
"""

import jax
import jax.numpy as jnp
import optax

RPN_BETA = 1 / 9


def smooth_l1(difference: jax.Array, beta: float) -> jax.Array:
    """Return 0.5 d^2 / beta where abs(d) < beta, else abs(d) - beta / 2; with beta 0 abs(d)."""
    size = jnp.abs(difference)
    if not beta:
        return size
    return jnp.where(size < beta, 0.5 * size * size / beta, size - 0.5 * beta)


def count_samples(positive: jax.Array, negative: jax.Array, *, counts_empty: bool) -> jax.Array:
    """Return the normaliser of the RPN's losses.

    Args:
      positive: number of positive samples of each image [images].
      negative: number of negative samples of each image [images].
      counts_empty: whether an image counts as at least one of each kind.
    """
    if counts_empty:
        positive, negative = jnp.maximum(positive, 1), jnp.maximum(negative, 1)
    return jnp.maximum(positive.sum() + negative.sum(), 1)


def rpn_class_loss(
    logits: jax.Array, positive: jax.Array, negative: jax.Array, count: jax.Array
) -> jax.Array:
    """Return the binary cross-entropy of samples.

    Args:
      logits: [...].
      positive: samples of objects, bool [...].
      negative: samples of the background, bool [...].
      count: the normaliser, see `count_samples`.
    """
    losses = optax.sigmoid_binary_cross_entropy(logits, positive.astype(logits.dtype))
    return jnp.where(positive | negative, losses, 0).sum() / count


def box_loss(
    deltas: jax.Array, targets: jax.Array, positive: jax.Array, count: jax.Array, beta: float
) -> jax.Array:
    """Return the smooth L1 loss of positive samples.

    Args:
      deltas: predicted deltas of the sample, or of its class [..., 4].
      targets: see `boxes.encode`, [..., 4].
      positive: bool [...]; the other samples have no loss, but count.
      count: the normaliser.
      beta: where the loss turns linear; 0 is the L1 loss.
    """
    # Masked before the loss, so that targets of other samples have no gradient.
    difference = jnp.where(positive[..., None], deltas - targets, 0)
    return smooth_l1(difference, beta).sum() / count


def roi_class_loss(logits: jax.Array, columns: jax.Array, sampled: jax.Array) -> jax.Array:
    """Return the mean cross-entropy of sampled RoIs.

    Args:
      logits: [rois, classes + 1].
      columns: column of each RoI's class, int [rois].
      sampled: which RoIs count, bool [rois].
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, columns)
    return jnp.where(sampled, losses, 0).sum() / jnp.maximum(sampled.sum(), 1)


def own_class(outputs: jax.Array, columns: jax.Array) -> jax.Array:
    """Return the output of each RoI's class: [rois, classes, ...] -> [rois, ...].

    A column that does not exist, such as the background's without outputs, reads the last one.
    """
    columns = jnp.clip(columns, 0, outputs.shape[1] - 1)
    index = columns.reshape(-1, *(1,) * (outputs.ndim - 1))
    return jnp.take_along_axis(outputs, index, axis=1)[:, 0]


def mask_loss(logits: jax.Array, targets: jax.Array, positive: jax.Array) -> jax.Array:
    """Return the binary cross-entropy of masks, the mean over positive RoIs and pixels.

    Args:
      logits: masks of the RoIs' classes [rois, height, width].
      targets: in 0 to 1, of the same shape.
      positive: which RoIs count, bool [rois]; without any the loss is 0.
    """
    losses = optax.sigmoid_binary_cross_entropy(logits, targets.astype(logits.dtype))
    means = losses.mean(axis=(1, 2))
    return jnp.where(positive, means, 0).sum() / jnp.maximum(positive.sum(), 1)
