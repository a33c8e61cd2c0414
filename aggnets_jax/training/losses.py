"""The losses of classification, with targets that may be smoothed and mixed.

A network may name its loss (`model.loss`, a key of `LOSSES`) and have auxiliary classifiers: logits
`auxiliary1`, ... among its endpoints, whose losses times `auxiliary_weight` are added in training.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax


def smooth_targets(labels: jax.Array, num_classes: int, smoothing: float, over: str) -> jax.Array:
    """Return one-hot targets of which a probability is taken away and shared among classes.

    Args:
      labels: int32 [batch].
      num_classes: K, at least 2 if others share.
      smoothing: the probability eps.
      over: "all": each class gets eps / K, the right one too (arXiv 1512.00567, section 7);
        "others": each wrong class gets eps / (K - 1), as in HCGNet's reference script.

    Returns:
      Targets float32 [batch, num_classes], each row of sum 1.
    """
    targets = jax.nn.one_hot(labels, num_classes)
    if over == "others":
        return targets * (1 - smoothing) + (1 - targets) * smoothing / max(1, num_classes - 1)
    return optax.smooth_labels(targets, smoothing)


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the cross entropy of each example.

    Args:
      logits: [batch, classes].
      targets: labels int32 [batch], or probabilities [batch, classes].

    Returns:
      Losses [batch], of the logits' dtype.
    """
    if jnp.issubdtype(targets.dtype, jnp.integer):
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return optax.softmax_cross_entropy(logits, targets.astype(logits.dtype))


def squared_hinge(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the squared hinge loss of each example: each class against the rest (DSN, 1409.5185).

    Args:
      logits: [batch, classes].
      targets: as for `cross_entropy`; with probabilities, the mean of the losses of both signs.

    Returns:
      Losses [batch], of the logits' dtype.
    """
    if jnp.issubdtype(targets.dtype, jnp.integer):
        targets = jax.nn.one_hot(targets, logits.shape[-1])
    share = targets.astype(logits.dtype)
    margins = jnp.square(jax.nn.relu(1 - logits)), jnp.square(jax.nn.relu(1 + logits))
    # A skipped image has no targets, and no loss.
    others = share.sum(-1, keepdims=True) - share
    return jnp.sum(share * margins[0] + others * margins[1], axis=-1)


LOSSES = {"cross_entropy": cross_entropy, "squared_hinge": squared_hinge}


def training_losses(
    name: str, logits: jax.Array, endpoints: Mapping[str, jax.Array], targets: jax.Array
) -> jax.Array:
    """Return the loss of each example, with the losses of the endpoints' auxiliary classifiers."""
    loss = LOSSES[name]
    losses = loss(logits, targets)
    for endpoint, auxiliary in endpoints.items():
        if endpoint.startswith("auxiliary") and endpoint != "auxiliary_weight":
            weight = endpoints["auxiliary_weight"].astype(losses.dtype)
            losses += weight * loss(auxiliary, targets).astype(losses.dtype)
    return losses
