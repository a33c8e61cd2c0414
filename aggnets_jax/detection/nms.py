"""Greedy non-maximum suppression, exactly and vectorised.

Greedy NMS goes through the boxes in the order of their scores. It keeps a box unless its IoU with a
box that is kept already exceeds a threshold. The kept boxes are the only solution of

    keep[i] = valid[i] and not any(keep[j] and IoU[j, i] > threshold for j < i)

The solution is found by iterating this equation from "keep all". The number of rounds grows with
the longest chain of suppressions, which is short. A round is one masked reduction.
"""

import jax
import jax.numpy as jnp

from aggnets_jax.detection.boxes import iou
from aggnets_jax.detection.conventions import Conventions


def nms(
    boxes: jax.Array,
    valid: jax.Array,
    threshold: float,
    conventions: Conventions,
    classes: jax.Array | None = None,
) -> jax.Array:
    """Return which boxes are kept, bool [n].

    Args:
      boxes: [n, 4] in the order of their scores, the highest first.
      valid: which boxes are real, bool [n].
      threshold: boxes with IoU above it (not equal to it) are suppressed.
      conventions: see `Conventions`.
      classes: int32 [n]; boxes suppress only boxes of their class. None: all others.
    """
    n = boxes.shape[0]
    suppresses = iou(boxes, boxes, conventions) > threshold
    suppresses &= jnp.arange(n)[:, None] < jnp.arange(n)
    if classes is not None:
        suppresses &= classes[:, None] == classes

    def iterate(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        keep, _ = state
        now = valid & ~jnp.any(suppresses & keep[:, None], axis=0)
        return now, jnp.any(now != keep)

    keep, _ = jax.lax.while_loop(lambda state: state[1], iterate, (valid, jnp.any(valid)))
    return keep


def descending(scores: jax.Array, valid: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
    """Return the indices of the highest scores, and which of them are real.

    Args:
      scores: finite scores [n]; equal scores are in the order of their index.
      valid: scores that count, bool [n].
      most: number of indices; fewer if n is.

    Returns:
      int32 [min(most, n)], the real ones first, and bool [min(most, n)].
    """
    scores = jnp.where(scores == 0, 0, scores)  # to top_k, 0 is above -0
    values, index = jax.lax.top_k(jnp.where(valid, scores, -jnp.inf), min(most, scores.shape[0]))
    return index.astype(jnp.int32), values > -jnp.inf
