"""From predictions of the heads to boxes: the proposals of the RPN, and the final detections.

Sources: Ren et al., arXiv 1506.01497, Section 3.1; for pyramids Lin et al., arXiv 1612.03144,
Section 4. All functions are for one image; map them over a batch with `jax.vmap`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from aggnets_jax.detection.boxes import ROI_STDS, RPN_STDS, clip, decode
from aggnets_jax.detection.conventions import Conventions
from aggnets_jax.detection.nms import descending, nms


class Proposals(NamedTuple):
    """Proposals of an image in the order of their scores, padded.

    Attributes:
      boxes: [n, 4] in pixels.
      logits: logits of being an object [n]; padding has the lowest finite number.
      levels: level of the pyramid from which each proposal comes, int32 [n].
      valid: which proposals are real, bool [n]; these come first.
    """

    boxes: jax.Array
    logits: jax.Array
    levels: jax.Array
    valid: jax.Array


class Detections(NamedTuple):
    """Detections of an image in the order of their scores, padded.

    Attributes:
      boxes: [n, 4] in pixels.
      scores: probabilities [n]; 0 for padding.
      labels: classes 0, ..., num_classes - 1, int32 [n].
      valid: which detections are real, bool [n]; these come first.
      cut: number of candidates above the least score that were left out before NMS, because the
        number of candidates is limited, int32 [].
    """

    boxes: jax.Array
    scores: jax.Array
    labels: jax.Array
    valid: jax.Array
    cut: jax.Array


class Limits(NamedTuple):
    """Numbers of proposals and the threshold of their NMS.

    Attributes:
      pre_nms: most proposals of a level before NMS.
      post_nms: most proposals of a level after NMS; None: all.
      proposals: most proposals of an image.
      threshold: IoU above which NMS suppresses.
    """

    pre_nms: int
    post_nms: int | None
    proposals: int
    threshold: float = 0.7


def limits(conventions: Conventions, *, train: bool) -> Limits:
    """Return the limits of training or evaluation."""
    phase = 0 if train else 1
    post_nms = conventions.post_nms
    return Limits(
        conventions.pre_nms[phase],
        None if post_nms is None else post_nms[phase],
        conventions.proposals[phase],
    )


def propose(
    logits: Sequence[jax.Array],
    deltas: Sequence[jax.Array],
    anchors: Sequence[jax.Array],
    size: jax.Array,
    limits: Limits,
    conventions: Conventions,
) -> Proposals:
    """Make the proposals of an image. No gradient flows through them.

    An image of size 0 has none.

    Args:
      logits: of each level [anchors], in the order of the anchors.
      deltas: of each level [anchors, 4].
      anchors: of each level [anchors, 4].
      size: (height, width) of the image without padding, [2].
      limits: numbers and threshold.
      conventions: see `Conventions`.
    """
    levels = [
        _propose_level(*level, size, limits, conventions)
        for level in zip(logits, deltas, anchors, strict=True)
    ]
    boxes, scores, kept = (jnp.concatenate(parts) for parts in zip(*levels, strict=True))
    origin = jnp.concatenate(
        [jnp.full(len(level[0]), i, jnp.int32) for i, level in enumerate(levels)]
    )
    index, valid = descending(scores, kept, limits.proposals)
    lowest = jnp.finfo(scores.dtype).min
    found = Proposals(
        jnp.where(valid[:, None], boxes[index], 0),
        jnp.where(valid, scores[index], lowest),
        origin[index],
        valid,
    )
    return jax.lax.stop_gradient(found)


def _propose_level(
    logits: jax.Array,
    deltas: jax.Array,
    anchors: jax.Array,
    size: jax.Array,
    limits: Limits,
    conventions: Conventions,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return boxes [n, 4] and logits [n] of a level in order, and which are kept, bool [n]."""
    index, valid = descending(logits, jnp.ones(logits.shape, bool), limits.pre_nms)
    boxes = decode(deltas[index], anchors[index], RPN_STDS, conventions)
    boxes = clip(boxes, size, conventions)
    width, height = conventions.sides(boxes)
    valid &= (jnp.minimum(width, height) >= conventions.least_side) & (size.min() > 0)
    keep = nms(boxes, valid, limits.threshold, conventions)
    if limits.post_nms is not None:
        keep &= jnp.cumsum(keep) <= limits.post_nms
    return boxes, logits[index], keep


def detect(
    scores: jax.Array,
    deltas: jax.Array,
    proposals: jax.Array,
    valid: jax.Array,
    size: jax.Array,
    conventions: Conventions,
    *,
    least_score: float = 0.05,
    threshold: float = 0.5,
    most: int = 100,
    candidates: int = 2000,
) -> Detections:
    """Make the detections of an image.

    Args:
      scores: probabilities of the objects' classes [proposals, classes].
      deltas: of the same classes [proposals, classes, 4].
      proposals: [proposals, 4].
      valid: which proposals are real, bool [proposals].
      size: (height, width) of the image without padding, [2].
      conventions: see `Conventions`.
      least_score: scores of detections are above it.
      threshold: IoU above which NMS suppresses boxes of the same class.
      most: largest number of detections.
      candidates: number of boxes of all classes that enter the NMS, those with the highest scores.
    """
    classes = scores.shape[1]
    boxes = decode(deltas, proposals[:, None], ROI_STDS, conventions)
    boxes = clip(boxes, size, conventions)
    width, height = conventions.sides(boxes)
    allowed = valid[:, None] & (scores > least_score) & jnp.isfinite(boxes).all(axis=-1)
    if conventions.least_detection:
        allowed &= jnp.minimum(width, height) >= conventions.least_detection
    index, real = descending(scores.reshape(-1), allowed.reshape(-1), candidates)
    boxes, flat = boxes.reshape(-1, 4)[index], scores.reshape(-1)[index]
    labels = index % classes
    keep = nms(boxes, real, threshold, conventions, labels)
    chosen, kept = descending(flat, keep, most)
    return Detections(
        jnp.where(kept[:, None], boxes[chosen], 0),
        jnp.where(kept, flat[chosen], 0),
        labels[chosen],
        kept,
        (allowed.sum() - real.sum()).astype(jnp.int32),
    )
