"""Assignment of objects to anchors and proposals by their IoU.

Source: Ren et al., arXiv 1506.01497, Section 3.1.2; `Conventions` has the differences between
implementations.
"""

import jax
import jax.numpy as jnp

from aggnets_jax.detection.boxes import iou
from aggnets_jax.detection.conventions import Conventions

NEGATIVE = -1
IGNORED = -2
"""Numbers in the place of an object's index: the candidate is background, or is not trained."""

RPN_POSITIVE, RPN_NEGATIVE = 0.7, 0.3
"""Least IoU of positive anchors, and IoU below which anchors are negative."""

ROI_THRESHOLD = 0.5
"""Least IoU of positive proposals; all others are negative."""


def overlaps(
    boxes: jax.Array,
    valid: jax.Array,
    candidates: jax.Array,
    allowed: jax.Array,
    conventions: Conventions,
) -> jax.Array:
    """Return the IoU [objects, candidates]; -1 where the object or the candidate doesn't count.

    Args:
      boxes: boxes of the objects [objects, 4].
      valid: which objects are real, bool [objects].
      candidates: anchors or proposals [candidates, 4].
      allowed: which candidates take part, bool [candidates].
      conventions: see `Conventions`.
    """
    return jnp.where(valid[:, None] & allowed, iou(boxes, candidates, conventions), -1)


def _assign(
    overlap: jax.Array,
    allowed: jax.Array,
    *,
    positive: float,
    negative: float,
    least: float | None,
    own_best: bool,
) -> jax.Array:
    """Return each candidate's object, or `NEGATIVE` or `IGNORED`, int32 [candidates].

    Args:
      overlap: IoU [objects, candidates], see `overlaps`.
      allowed: candidates that take part, bool [candidates]; the others are ignored.
      positive: least IoU of a positive candidate.
      negative: candidates whose IoU with every object is below it are negative.
      least: if an object's best IoU is at least this, all candidates with exactly this best IoU are
        positive; None: no such rule.
      own_best: whether these candidates take the object that they overlap most, rather than the
        object whose best they are.
    """
    # Without the barrier, XLA may compute an IoU twice with different rounding, and no IoU would
    # equal the maximum.
    overlap = jax.lax.optimization_barrier(overlap)
    best, own = overlap.max(axis=0), jnp.argmax(overlap, axis=0)
    assigned = jnp.where(best < negative, NEGATIVE, IGNORED)
    assigned = jnp.where(best >= positive, own, assigned)
    if least is not None:
        most = overlap.max(axis=1, keepdims=True)
        reaches = (overlap == most) & (most >= max(least, 0.0))
        # The last object, as if objects were assigned one after the other.
        last = overlap.shape[0] - 1 - jnp.argmax(reaches[::-1], axis=0)
        chosen = own if own_best else last
        assigned = jnp.where(reaches.any(axis=0), chosen, assigned)
    return jnp.where(allowed, assigned, IGNORED).astype(jnp.int32)


def assign_anchors(
    boxes: jax.Array,
    valid: jax.Array,
    anchors: jax.Array,
    allowed: jax.Array,
    conventions: Conventions,
) -> jax.Array:
    """Assign objects to anchors.

    Args:
      boxes: boxes of the objects [objects, 4].
      valid: which of them are real, bool [objects].
      anchors: [anchors, 4].
      allowed: anchors that may be trained, bool [anchors].
      conventions: see `Conventions`.

    Returns:
      int32 [anchors]: the object's index, `NEGATIVE`, or `IGNORED`. Without objects all allowed
      anchors are negative.
    """
    return _assign(
        overlaps(boxes, valid, anchors, allowed, conventions),
        allowed,
        positive=RPN_POSITIVE,
        negative=RPN_NEGATIVE,
        least=conventions.rpn_least_overlap,
        own_best=conventions.rpn_own_best,
    )


def assign_proposals(
    boxes: jax.Array,
    valid: jax.Array,
    proposals: jax.Array,
    allowed: jax.Array,
    conventions: Conventions,
) -> jax.Array:
    """Assign objects to proposals [proposals, 4]; see `assign_anchors`.

    `IGNORED` are only proposals that are not allowed, such as padding.
    """
    return _assign(
        overlaps(boxes, valid, proposals, allowed, conventions),
        allowed,
        positive=ROI_THRESHOLD,
        negative=ROI_THRESHOLD,
        least=ROI_THRESHOLD if conventions.roi_low_quality else None,
        own_best=False,
    )
