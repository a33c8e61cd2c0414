"""The loss of classification: cross entropy with targets that may be smoothed and mixed."""

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
