"""The losses of classification, with targets that may be smoothed and mixed.

A config names its loss (a key of `LOSSES`), or the network does (`model.loss`). A network may have
auxiliary classifiers: logits `auxiliary1`, ... among its endpoints, whose losses times
`auxiliary_weight` are added in training.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from aggnets_jax.arguments import check_arguments, check_number, choose

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def smooth_targets(labels: jax.Array, num_classes: int, smoothing: float, over: str) -> jax.Array:
    """Return one-hot targets with a part of the probability shared among the classes.

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
    share = _probabilities(targets, logits)
    margins = jnp.square(jax.nn.relu(1 - logits)), jnp.square(jax.nn.relu(1 + logits))
    # A skipped image has no targets, and no loss.
    others = share.sum(-1, keepdims=True) - share
    return jnp.sum(share * margins[0] + others * margins[1], axis=-1)


def binary_cross_entropy(
    logits: jax.Array, targets: jax.Array, *, threshold: float | None = None
) -> jax.Array:
    """Return the mean over the classes of their binary cross entropies, for each example.

    Args:
      logits: [batch, classes].
      targets: as for `cross_entropy`.
      threshold: targets above it become 1, and all others 0, as in "ResNet strikes back" (arXiv
        2110.00476), where mixed images have both classes; None: targets as they are.

    Returns:
      Losses [batch], of the logits' dtype.
    """
    targets = _probabilities(targets, logits)
    if threshold is not None:
        check_number("threshold", threshold, 0, 1)
        targets = (targets > threshold).astype(logits.dtype)
    return optax.sigmoid_binary_cross_entropy(logits, targets).mean(-1)


def focal(logits: jax.Array, targets: jax.Array, *, gamma: float = 2.0) -> jax.Array:
    """Return the sum over the classes of -t (1 - p)^gamma log p, for each example.

    p are the probabilities and t the targets: the focal loss (arXiv 1708.02002) of a softmax.
    Arguments and result are as for `cross_entropy`.
    """
    check_number("gamma", gamma, 0)
    log_p = jax.nn.log_softmax(logits)
    # Above 0, where a power below 1 has no derivative.
    focus = jnp.maximum(1 - jnp.exp(log_p), jnp.finfo(log_p.dtype).tiny) ** gamma
    return -jnp.sum(_probabilities(targets, logits) * focus * log_p, axis=-1)


def binary_focal(
    logits: jax.Array, targets: jax.Array, *, gamma: float = 2.0, alpha: float | None = None
) -> jax.Array:
    """Return the mean over the classes of their binary focal losses (arXiv 1708.02002).

    The losses of targets of 1 have the weight `alpha`, and those of 0 the weight 1 - alpha; None:
    all have the weight 1. Arguments and result are as for `cross_entropy`.
    """
    check_number("gamma", gamma, 0)
    if alpha is not None:
        check_number("alpha", alpha, 0, 1)
    targets = _probabilities(targets, logits)
    return optax.sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma).mean(-1)


def _probabilities(targets: jax.Array, logits: jax.Array) -> jax.Array:
    if jnp.issubdtype(targets.dtype, jnp.integer):
        targets = jax.nn.one_hot(targets, logits.shape[-1])
    return targets.astype(logits.dtype)


LOSSES: dict[str, Callable[..., jax.Array]] = {
    f.__name__: f for f in (cross_entropy, squared_hinge, binary_cross_entropy, focal, binary_focal)
}


def make_loss(config: ml_collections.ConfigDict, model: Any, default: str) -> Loss:
    """Return the loss that a config names, or the network, or the default.

    Raises:
      UserError: for an unknown loss or a wrong argument of it.
    """
    name = config.loss or getattr(model, "loss", None) or default
    loss = choose("loss", LOSSES, name)
    check_arguments(f"loss {name!r}", loss, config.loss_args)
    return partial(loss, **config.loss_args)


def training_losses(
    loss: Loss, logits: jax.Array, endpoints: Mapping[str, jax.Array], targets: jax.Array
) -> jax.Array:
    """Return the loss of each example, with the losses of the endpoints' auxiliary classifiers."""
    losses = loss(logits, targets)
    for endpoint, auxiliary in endpoints.items():
        if endpoint.startswith("auxiliary") and endpoint != "auxiliary_weight":
            weight = endpoints["auxiliary_weight"].astype(losses.dtype)
            losses += weight * loss(auxiliary, targets).astype(losses.dtype)
    return losses
