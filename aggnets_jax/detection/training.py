"""Targets and losses of a batch, from samples of anchors and proposals.

Sources: Ren et al., arXiv 1506.01497, Section 3.1.3; He et al., arXiv 1703.06870, Section 3.1. The
loss of a detector is the sum of its parts, all with weight 1.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from aggnets_jax.detection import losses
from aggnets_jax.detection.assign import IGNORED, assign_anchors, assign_proposals
from aggnets_jax.detection.boxes import ROI_STDS, RPN_STDS, encode, inside
from aggnets_jax.detection.conventions import Conventions
from aggnets_jax.detection.masks import cropped_targets, mask_targets
from aggnets_jax.detection.proposals import Proposals
from aggnets_jax.detection.sampling import sample
from aggnets_jax.runtime.mesh import map_images


class SampleSizes(NamedTuple):
    """Numbers of samples of an image; the defaults are the papers'.

    Attributes:
      anchors: most anchors for the losses of the RPN.
      positive_anchors: most positives among the anchors.
      rois: most RoIs for the losses of the heads.
      positive_rois: most positives among the RoIs; the mask head reads these.
    """

    anchors: int = 256
    positive_anchors: int = 128
    rois: int = 512
    positive_rois: int = 128


PAPERS_SAMPLES = SampleSizes()


class Objects(NamedTuple):
    """The objects of images, padded to a number of objects.

    Attributes:
      boxes: [batch, objects, 4] in pixels of the network's input.
      labels: classes 0, ..., num_classes - 1, int32 [batch, objects].
      valid: which objects are real, bool [batch, objects]; an image may have none.
      masks: 0 or 1 in the network's input [batch, objects, height, width], or in the objects' own
        boxes [batch, objects, side, side]; None without masks.
    """

    boxes: jax.Array
    labels: jax.Array
    valid: jax.Array
    masks: jax.Array | None = None


class Samples(NamedTuple):
    """Sampled anchors or RoIs, [batch, slots]; real ones come first, positives before negatives.

    Attributes:
      index: index of the anchor, int32.
      boxes: the anchor or RoI [batch, slots, 4].
      positive: whether the slot is a positive sample, bool.
      negative: whether it is a negative one, bool.
      object: index of a positive sample's object, else 0, int32.
      labels: class of this object, int32.
      deltas: deltas from the box to the object's [batch, slots, 4].
    """

    index: jax.Array
    boxes: jax.Array
    positive: jax.Array
    negative: jax.Array
    object: jax.Array
    labels: jax.Array
    deltas: jax.Array


def sample_anchors(
    keys: jax.Array,
    objects: Objects,
    anchors: Sequence[jax.Array],
    sizes: jax.Array,
    conventions: Conventions,
    numbers: SampleSizes = PAPERS_SAMPLES,
) -> Samples:
    """Sample anchors for the RPN's losses; an image of size 0 has no samples.

    Args:
      keys: random keys of the images [batch].
      objects: the objects.
      anchors: anchors of each level [anchors, 4].
      sizes: (height, width) of the images without padding [batch, 2].
      conventions: see `Conventions`.
      numbers: numbers of samples.
    """
    most = numbers.anchors, numbers.positive_anchors

    def of_image(image: tuple[jax.Array, ...], every: jax.Array) -> Samples:
        key, boxes, labels, valid, size = image
        allowed = jnp.broadcast_to(size.min() > 0, len(every))
        if conventions.anchors_inside:
            allowed = inside(every, size)
        assigned = assign_anchors(boxes, valid, every, allowed, conventions)
        return _samples(key, every, assigned, boxes, labels, conventions, *most, RPN_STDS)

    return map_images(of_image)((keys, *objects[:3], sizes), jnp.concatenate(anchors))


def sample_rois(
    keys: jax.Array,
    objects: Objects,
    proposals: Proposals,
    conventions: Conventions,
    numbers: SampleSizes = PAPERS_SAMPLES,
) -> Samples:
    """Sample RoIs from the objects' own boxes and the proposals; see `sample_anchors`."""
    most = numbers.rois, numbers.positive_rois

    def of_image(image: tuple[jax.Array, ...], _: object) -> Samples:
        key, boxes, labels, valid, proposed, real = image
        rois = jnp.concatenate([boxes.astype(proposed.dtype), proposed])
        # The objects' own boxes are assigned apart: no proposal is better than they are.
        assigned = assign_proposals(boxes, valid, proposed, real, conventions)
        own = jnp.where(valid, jnp.arange(len(boxes), dtype=jnp.int32), IGNORED)
        if conventions.matches_objects:
            own = assign_proposals(boxes, valid, boxes, valid, conventions)
        assigned = jnp.concatenate([own, assigned])
        return _samples(key, rois, assigned, boxes, labels, conventions, *most, ROI_STDS)

    images = (keys, *objects[:3], proposals.boxes, proposals.valid)
    return jax.lax.stop_gradient(map_images(of_image)(images, ()))


def _samples(
    key: jax.Array,
    candidates: jax.Array,
    assigned: jax.Array,
    boxes: jax.Array,
    labels: jax.Array,
    conventions: Conventions,
    number: int,
    positives: int,
    stds: Sequence[float],
) -> Samples:
    """Return the samples of an image from the objects assigned to the candidates."""
    drawn = sample(key, assigned, number=number, positives=positives)
    own, chosen = jnp.maximum(drawn.assigned, 0), candidates[drawn.index]
    deltas = encode(boxes[own].astype(chosen.dtype), chosen, stds, conventions)
    return Samples(drawn.index, chosen, drawn.positive, drawn.negative, own, labels[own], deltas)


def rpn_losses(
    logits: jax.Array, deltas: jax.Array, samples: Samples, conventions: Conventions
) -> dict[str, jax.Array]:
    """Return the RPN's losses.

    Args:
      logits: of all anchors [batch, anchors].
      deltas: of all anchors [batch, anchors, 4].
      samples: the sampled anchors.
      conventions: see `Conventions`.
    """
    logits = jnp.take_along_axis(logits, samples.index, axis=1)
    deltas = jnp.take_along_axis(deltas, samples.index[..., None], axis=1)
    positive, negative = samples.positive, samples.negative
    count = losses.count_samples(
        positive.sum(axis=1), negative.sum(axis=1), counts_empty=conventions.counts_empty
    )
    box = losses.box_loss(deltas, samples.deltas, positive, count, losses.RPN_BETA)
    return {
        "rpn_class": losses.rpn_class_loss(logits, positive, negative, count),
        "rpn_box": box,
    }


def roi_losses(
    logits: jax.Array,
    deltas: jax.Array,
    samples: Samples,
    num_classes: int,
    conventions: Conventions,
) -> dict[str, jax.Array]:
    """Return the box head's losses.

    Args:
      logits: [batch, slots, classes + 1].
      deltas: [batch, slots, outputs, 4].
      samples: the sampled RoIs.
      num_classes: number of classes.
      conventions: see `Conventions`.
    """
    flat = partial(jax.tree.map, lambda x: x.reshape(-1, *x.shape[2:]))
    logits, deltas, samples = flat((logits, deltas, samples))
    columns = conventions.columns(samples.labels)
    sampled = samples.positive | samples.negative
    background = conventions.background(num_classes)
    classes = jnp.where(samples.positive, columns, background)
    own = losses.own_class(deltas, columns)
    count = jnp.maximum(sampled.sum(), 1)
    box = losses.box_loss(own, samples.deltas, samples.positive, count, conventions.roi_beta)
    return {"class": losses.roi_class_loss(logits, classes, sampled), "box": box}


def mask_losses(
    logits: jax.Array,
    samples: Samples,
    objects: Objects,
    conventions: Conventions,
    *,
    cropped: bool = False,
) -> dict[str, jax.Array]:
    """Return the mask head's loss.

    Args:
      logits: masks of the first slots [batch, slots, outputs, side, side].
      samples: the sampled RoIs, cut to these slots.
      objects: the objects, with masks.
      conventions: see `Conventions`.
      cropped: whether the masks are in the objects' own boxes.
    """
    own = {"size": logits.shape[-1], "conventions": conventions}
    if cropped:
        read = jax.vmap(partial(cropped_targets, **own))
        targets = read(objects.masks, objects.boxes, samples.boxes, samples.object)
    else:
        read = jax.vmap(partial(mask_targets, **own))
        targets = read(objects.masks, samples.boxes, samples.object)
    chosen = jax.vmap(losses.own_class)(logits, conventions.columns(samples.labels))
    side = chosen.shape[-2:]
    loss = losses.mask_loss(
        chosen.reshape(-1, *side), targets.reshape(-1, *side), samples.positive.reshape(-1)
    )
    return {"mask": loss}
