"""The choices in which implementations of R-CNN differ, as one record.

legacy        mmdetection 1.x, which measured HCGNet's Table 4
center        mmdetection 2.x
torchvision   torchvision.models.detection
"""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Conventions:
    """Choices of an implementation.

    Attributes:
      name: name of the record.
      extent: added to x2 - x1 for the width of a box; 1 if x2 is the last pixel.
      rounded_anchors: whether base anchors are rounded to integers, half to even.
      stride_from_map: whether an anchor's stride is the padded side // the map's side; level 5 of
        800 rows then has stride 61, not 64.
      anchors_inside: whether only anchors inside the image are trained.
      clips_shrinking: whether decoding also bounds how much a box shrinks, not only how it grows.
      rpn_least_overlap: least IoU of the best anchors of an object that are positive in any case.
      rpn_own_best: whether such an anchor is assigned the object that it overlaps most, rather than
        the object whose best anchor it is.
      roi_low_quality: whether the rule of `rpn_least_overlap` also holds for proposals, with their
        own threshold.
      matches_objects: whether an object's box that is added to the proposals is assigned the first
        object that it overlaps most, rather than that object; they differ for equal boxes.
      roi_shift: subtracted from the scaled coordinates of a RoI, half a pixel if aligned.
      roi_least: least side of a RoI in cells of the map, where `roi_shift` is 0.
      sampling_ratio: points of a RoIAlign bin along a side; 0: adaptive, see `roi_align`.
      level_epsilon_inside: whether the 1e-6 of the level's formula is inside the logarithm.
      mask_target: name of the function in `masks.TARGETS`.
      paste: name of the function in `masks.PASTES`.
      roi_beta: where the smooth L1 loss of the RoIs turns linear; 0 is the L1 loss.
      pre_nms: (training, evaluation) proposals of a level before NMS.
      post_nms: (training, evaluation) proposals of a level after NMS, or None for all.
      proposals: (training, evaluation) proposals of an image.
      least_side: least width and height of a proposal; a side may equal it.
      least_detection: the same for detections.
      counts_empty: whether the normaliser of the RPN's losses counts at least one positive and one
        negative sample an image.
      background_first: whether the background is class 0, with deltas and a mask of its own, rather
        than class K without them.
      flip_extent: subtracted from the width when x is flipped.
      rounds_size: whether a resized side is rounded, rather than cut off.
    """

    name: str
    extent: float = 0.0
    rounded_anchors: bool = False
    stride_from_map: bool = False
    anchors_inside: bool = True
    clips_shrinking: bool = True
    rpn_least_overlap: float = 0.3
    rpn_own_best: bool = False
    roi_low_quality: bool = False
    matches_objects: bool = False
    roi_shift: float = 0.0
    roi_least: float = 0.0
    sampling_ratio: int = 2
    level_epsilon_inside: bool = True
    mask_target: str = "crop"
    paste: str = "resize"
    roi_beta: float = 1.0
    pre_nms: tuple[int, int] = (2000, 1000)
    post_nms: tuple[int, int] | None = None
    proposals: tuple[int, int] = (2000, 1000)
    least_side: float = 0.0
    least_detection: float = 0.0
    counts_empty: bool = True
    background_first: bool = True
    flip_extent: float = 0.0
    rounds_size: bool = True

    def outputs(self, num_classes: int) -> int:
        """Return the number of classes with deltas and masks."""
        return num_classes + self.background_first

    def background(self, num_classes: int) -> int:
        """Return the column of the background in the scores [..., num_classes + 1]."""
        return 0 if self.background_first else num_classes

    def columns(self, labels: jax.Array) -> jax.Array:
        """Return the columns of the outputs for labels 0, ..., num_classes - 1."""
        return labels + self.background_first

    def objects(self, outputs: jax.Array, num_classes: int, axis: int = -1) -> jax.Array:
        """Return the outputs of the objects' classes, without the background, along an axis."""
        first = int(self.background_first)
        return jax.lax.slice_in_dim(outputs, first, first + num_classes, axis=axis)

    def sides(self, boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return width and height [...] of boxes [..., 4]."""
        x1, y1, x2, y2 = jnp.moveaxis(boxes, -1, 0)
        return x2 - x1 + self.extent, y2 - y1 + self.extent


LEGACY = Conventions(
    "legacy",
    extent=1.0,
    rounded_anchors=True,
    roi_low_quality=True,
    post_nms=(2000, 1000),
    flip_extent=1.0,
)
CENTER = Conventions(
    "center",
    roi_shift=0.5,
    sampling_ratio=0,
    mask_target="aligned",
    paste="sample",
    roi_beta=0.0,
    proposals=(1000, 1000),
    # 2.x keeps sides > 0; the differences of float32 coordinates are 0 or larger than this.
    least_side=1e-30,
    background_first=False,
)
TORCHVISION = Conventions(
    "torchvision",
    rounded_anchors=True,
    stride_from_map=True,
    anchors_inside=False,
    clips_shrinking=False,
    rpn_least_overlap=0.0,
    rpn_own_best=True,
    matches_objects=True,
    roi_least=1.0,
    level_epsilon_inside=False,
    mask_target="soft",
    paste="padded",
    roi_beta=1 / 9,
    least_side=1e-3,
    least_detection=1e-2,
    counts_empty=False,
    rounds_size=False,
)

CONVENTIONS = {record.name: record for record in (LEGACY, CENTER, TORCHVISION)}
"""The records by name."""
