"""Faster R-CNN and Mask R-CNN with a feature pyramid, as one linen module.

    images -- backbone -- pyramid -- RPN -- proposals -- RoIAlign -- box head -- detections
                             |                              |
                             '-------------- RoIAlign -- mask head (at detections)

Papers: see the package. All shapes are static; `valid` masks mark the real rows of padded lists.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from aggnets_jax.connectivity.topology import Topology
from aggnets_jax.detection import proposals as proposing
from aggnets_jax.detection import training
from aggnets_jax.detection.anchors import RATIOS, SCALE, level_anchors
from aggnets_jax.detection.conventions import Conventions
from aggnets_jax.detection.heads import BoxHead, FeaturePyramid, MaskHead, RPNHead
from aggnets_jax.detection.losses import own_class
from aggnets_jax.detection.proposals import Detections, Proposals
from aggnets_jax.detection.roi_align import pool
from aggnets_jax.errors import UserError
from aggnets_jax.models.levels import Backbone, Levels
from aggnets_jax.runtime.mesh import map_images

MASK_ROI = 14
"""Bins of a RoI of the mask head along each side; a mask has twice as many pixels."""

MASKS_AT_ONCE = 32
"""Masks of an image that are predicted, or skipped, together."""


class Sizes(NamedTuple):
    """Widths of a detector's parts; the defaults come from the papers.

    Attributes:
      pyramid: channels of the pyramid, the RPN and the RoIs.
      hidden: width of the box head.
      mask: channels of the mask head.
      mask_depth: 3x3 convolutions of the mask head.
      anchor_scale: side of the square anchor in strides.
      finest: see `roi_align.level_of`; None: 14 strides of the finest level.
    """

    pyramid: int = 256
    hidden: int = 1024
    mask: int = 256
    mask_depth: int = 4
    anchor_scale: float = SCALE
    finest: float | None = None


class Detector(nn.Module):
    """A two-stage detector.

    Attributes:
      backbone: the network and its levels.
      num_classes: classes of objects, without the background.
      conventions: choices in which implementations differ.
      masks: whether there is a mask head (Mask R-CNN).
      sizes: widths of the parts.
      roi_method: "gather" or "matrices", see `roi_align`.
      least_score: scores of detections are above it.
      nms_threshold: IoU of the NMS of detections within a class.
      most: largest number of detections of an image.
      candidates: number of boxes of all classes, by their scores, that enter this NMS.
      samples: numbers of samples in training.
      cropped_masks: whether masks of objects are cropped to their boxes, see `training.Objects`.
      limits: numbers of proposals, (training, evaluation); None: the conventions'.
      loss_group: number of images whose losses have a common normaliser; it must divide the batch.
        In the papers it was the 2 images of a device. None: the batch.
      dtype: dtype of the computation; boxes are at least float32.
    """

    backbone: Backbone
    num_classes: int
    conventions: Conventions
    masks: bool = True
    sizes: Sizes = Sizes()
    roi_method: str = "gather"
    least_score: float = 0.05
    nms_threshold: float = 0.5
    most: int = 100
    candidates: int = 2000
    samples: training.SampleSizes = training.PAPERS_SAMPLES
    cropped_masks: bool = False
    limits: tuple[proposing.Limits, proposing.Limits] | None = None
    loss_group: int | None = None
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Make the parts; their names are `backbone`, `pyramid`, `rpn`, `boxes`, `mask`."""
        sizes, outputs = self.sizes, self.conventions.outputs(self.num_classes)
        self.levels = Levels(self.backbone, name="backbone")
        self.fpn = FeaturePyramid(sizes.pyramid, self.dtype, name="pyramid")
        self.rpn = RPNHead(len(RATIOS), sizes.pyramid, self.dtype, name="rpn")
        self.box_head = BoxHead(
            self.num_classes + 1, outputs, sizes.hidden, self.dtype, name="boxes"
        )
        if self.masks:
            self.mask_head = MaskHead(
                outputs, sizes.mask, sizes.mask_depth, self.dtype, name="mask"
            )

    def losses(
        self, images: jax.Array, sizes: jax.Array, objects: training.Objects, keys: jax.Array
    ) -> dict[str, jax.Array]:
        """Return the losses of a batch by name; the loss is their sum.

        Args:
          images: as for `__call__`.
          sizes: as for `__call__`.
          objects: the objects of the images.
          keys: random keys of the images [batch].

        Returns:
          Scalars "rpn_class", "rpn_box", "class", "box" and, with masks, "mask".
        """
        maps = self.features(images, train=True)
        logits, deltas = self.rpn(maps)
        proposals = self.propose(images.shape[1:3], logits, deltas, sizes, train=True)
        rpn_keys, roi_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        anchors = self.anchors(images.shape[1:3], deltas[0].dtype)
        choice, numbers = self.conventions, self.samples
        sampled = training.sample_anchors(rpn_keys, objects, anchors, sizes, choice, numbers)
        logits, deltas = jnp.concatenate(logits, axis=1), jnp.concatenate(deltas, axis=1)
        parts = self._by_group(
            partial(training.rpn_losses, conventions=choice), logits, deltas, sampled
        )
        rois = training.sample_rois(roi_keys, objects, proposals, choice, numbers)
        class_logits, box_deltas = self.predict_boxes(maps, rois.boxes)
        read = partial(training.roi_losses, num_classes=self.num_classes, conventions=choice)
        parts |= self._by_group(read, class_logits, box_deltas, rois)
        if self.masks:
            first = jax.tree.map(lambda x: x[:, : numbers.positive_rois], rois)
            masks = self.predict_some_masks(maps, first.boxes, first.positive)
            read = partial(training.mask_losses, conventions=choice, cropped=self.cropped_masks)
            parts |= self._by_group(read, masks, first, objects)
        return parts

    def _by_group(self, losses: Callable[..., Any], *inputs: Any) -> dict[str, jax.Array]:
        """Return losses that are normalised within groups of images, and their mean over groups."""
        if self.loss_group is None:
            return losses(*inputs)
        images = len(jax.tree.leaves(inputs)[0])
        if images % self.loss_group:
            raise UserError(
                f"loss_group={self.loss_group} must divide the images of a batch, or of a part of"
                f" it with config.accumulation_steps: {images}"
            )
        inputs = jax.tree.map(lambda x: x.reshape(-1, self.loss_group, *x.shape[1:]), inputs)
        return {name: loss.mean() for name, loss in jax.vmap(losses)(*inputs).items()}

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides of the pyramid's maps in pixels; only the RPN reads the last map."""
        return (*self.backbone.strides, 2 * self.backbone.strides[-1])

    @property
    def topologies(self) -> tuple[Topology, ...]:
        """The topologies of the backbone's stages."""
        return self.backbone.network.topologies

    def __call__(
        self, images: jax.Array, sizes: jax.Array | None = None, *, train: bool = False
    ) -> tuple[Detections, jax.Array | None]:
        """Detect objects; `losses` is the method for training.

        Args:
          images: [batch, height, width, channels], normalised; padded at the right and bottom to a
            multiple of the last backbone stride.
          sizes: (height, width) of each image without padding, [batch, 2]; None: without padding.
          train: must be False.

        Returns:
          The detections [batch, most, ...], and the probabilities of their masks
          [batch, most, side, side] in their boxes, or None without a mask head.
        """
        if train:
            raise ValueError("a detector is trained by its method `losses`")
        if sizes is None:
            sizes = jnp.tile(jnp.array(images.shape[1:3]), (len(images), 1))
        maps = self.features(images)
        logits, deltas = self.rpn(maps)
        proposals = self.propose(images.shape[1:3], logits, deltas, sizes, train=False)
        scores, box_deltas = self.predict_boxes(maps, proposals.boxes)
        outputs = (*logits, *deltas, scores, box_deltas)
        # For who asks for it: no score above the least one can be of a network that has diverged.
        finite = [jnp.isfinite(x).all(axis=range(1, x.ndim)) for x in outputs]
        if not self.is_initializing():
            self.sow("finite", "outputs", jnp.stack(finite).all(axis=0))
        detections = self.detect(scores, box_deltas, proposals, sizes)
        if not self.masks:
            return detections, None
        masks = self.predict_some_masks(maps, detections.boxes, detections.valid)
        columns = self.conventions.columns(detections.labels)
        return detections, nn.sigmoid(jax.vmap(own_class)(masks, columns))

    def features(self, images: jax.Array, *, train: bool = False) -> list[jax.Array]:
        """Return the maps of the pyramid; only the RPN reads the last one."""
        return self.fpn(self.levels(jnp.asarray(images, self.dtype), train=train))

    def anchors(self, padded: Sequence[int], dtype: DTypeLike = jnp.float32) -> list[jax.Array]:
        """Return each level's anchors for images of a padded (height, width)."""
        scale = self.sizes.anchor_scale
        return level_anchors(padded, self.strides, self.conventions, scale=scale, dtype=dtype)

    def propose(
        self,
        padded: Sequence[int],
        logits: Sequence[jax.Array],
        deltas: Sequence[jax.Array],
        sizes: jax.Array,
        *,
        train: bool,
    ) -> Proposals:
        """Make the proposals of a batch, [batch, ...]; see `proposals.propose`."""
        if self.limits is None:
            limits = proposing.limits(self.conventions, train=train)
        else:
            limits = self.limits[0 if train else 1]
        anchors = self.anchors(padded, deltas[0].dtype)
        make = partial(proposing.propose, limits=limits, conventions=self.conventions)

        def of_image(image: Any, anchors: Sequence[jax.Array]) -> Proposals:
            logits, deltas, size = image
            return make(logits, deltas, anchors, size)

        predicted = jax.lax.stop_gradient((list(logits), list(deltas)))
        return map_images(of_image)((*predicted, sizes), list(anchors))

    def roi_features(self, maps: Sequence[jax.Array], boxes: jax.Array, size: int) -> jax.Array:
        """Pool boxes [batch, n, 4] to [batch * n, size, size, channels], without the last map."""
        finest = self.sizes.finest or 14 * self.strides[0]
        read = partial(
            pool,
            strides=self.backbone.strides,
            size=size,
            conventions=self.conventions,
            finest=finest,
            method=self.roi_method,
        )
        pooled = jax.vmap(lambda maps, boxes: read(maps, rois=boxes))(list(maps[:-1]), boxes)
        return pooled.reshape(-1, *pooled.shape[2:])

    def predict_boxes(
        self, maps: Sequence[jax.Array], boxes: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return logits [batch, n, classes + 1] and deltas [batch, n, outputs, 4] of boxes."""
        logits, deltas = self.box_head(self.roi_features(maps, boxes, 7))
        batch = boxes.shape[:2]
        return logits.reshape(*batch, -1), deltas.reshape(*batch, -1, 4)

    def detect(
        self, logits: jax.Array, deltas: jax.Array, proposals: Proposals, sizes: jax.Array
    ) -> Detections:
        """Make the detections of a batch from the predictions of the box head."""
        objects = partial(self.conventions.objects, num_classes=self.num_classes)
        scores = objects(nn.softmax(logits))
        if deltas.shape[2] > self.num_classes:
            deltas = objects(deltas, axis=2)
        make = partial(
            proposing.detect,
            conventions=self.conventions,
            least_score=self.least_score,
            threshold=self.nms_threshold,
            most=self.most,
            candidates=self.candidates,
        )
        images = (scores, deltas, proposals.boxes, proposals.valid, sizes)
        return map_images(lambda image, _: make(*image))(images, ())

    def predict_some_masks(
        self, maps: Sequence[jax.Array], boxes: jax.Array, wanted: jax.Array
    ) -> jax.Array:
        """Return logits as `predict_masks`, with 0 for groups of boxes that no image wants.

        Most images have far fewer objects than there is room for. In `wanted`, bool [batch, n], the
        true values of an image come first, so groups of boxes without any can be skipped.
        """
        if self.is_initializing():
            return self.predict_masks(maps, boxes)

        shape = (self.conventions.outputs(self.num_classes), 2 * MASK_ROI, 2 * MASK_ROI)
        dtype = jnp.promote_types(self.dtype, jnp.float32)

        def predict(detector: Detector, part: jax.Array) -> jax.Array:
            return detector.predict_masks(maps, part)

        def skip(detector: Detector, part: jax.Array) -> jax.Array:
            return jnp.zeros((*part.shape[:2], *shape), dtype)

        masks = []
        for first in range(0, boxes.shape[1], MASKS_AT_ONCE):
            part = slice(first, first + MASKS_AT_ONCE)
            any_wanted = wanted[:, part].any()
            masks.append(nn.cond(any_wanted, predict, skip, self, boxes[:, part]))
        return jnp.concatenate(masks, axis=1)

    def predict_masks(self, maps: Sequence[jax.Array], boxes: jax.Array) -> jax.Array:
        """Return the logits of masks of boxes [batch, n, 4]: [batch, n, outputs, side, side]."""
        masks = self.mask_head(self.roi_features(maps, boxes, MASK_ROI))
        return masks.reshape(*boxes.shape[:2], *masks.shape[1:])
