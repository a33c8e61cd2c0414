"""Masks of objects: targets of training, and masks pasted into the image.

Source: He et al., "Mask R-CNN", arXiv 1703.06870, Section 3; the implementations differ in how
they resample, see `Conventions`.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from aggnets_jax.detection.conventions import CENTER, TORCHVISION, Conventions
from aggnets_jax.detection.roi_align import roi_matrices

# OpenCV's bilinear resize of bytes has weights of 11 bits, and drops the last 4 bits of each row.
_ONE = 1 << 11


def mask_targets(
    masks: jax.Array, boxes: jax.Array, index: jax.Array, size: int, conventions: Conventions
) -> jax.Array:
    """Return the targets of RoIs, float [rois, size, size] in 0 to 1.

    Args:
      masks: masks of an image's objects, 0 or 1 [objects, height, width].
      boxes: RoIs in pixels [rois, 4].
      index: object of each RoI, int32 [rois].
      size: side of a mask.
      conventions: see `Conventions`.
    """
    return TARGETS[conventions.mask_target](masks, boxes, index, size)


def cropped_targets(
    crops: jax.Array,
    own: jax.Array,
    boxes: jax.Array,
    index: jax.Array,
    size: int,
    conventions: Conventions,
) -> jax.Array:
    """Return the targets of RoIs as `mask_targets`, from masks that are cropped to their boxes.

    A crop takes far less memory than a mask of the whole image. Its targets differ at the edges of
    objects: a pixel is 1 where one bilinear sample of the crop is at least 0.5. The sample is where
    the convention samples the whole mask. A soft target is the mean of 4x4 samples.

    Args:
      crops: masks of an image's objects in their own boxes, 0 or 1 [objects, side, side].
      own: boxes of the objects in pixels [objects, 4].
      boxes: RoIs in pixels [rois, 4].
      index: object of each RoI, int32 [rois].
      size: side of a target.
      conventions: see `Conventions`.
    """
    side, own = crops.shape[-1], own[index]
    if conventions.mask_target == "crop":
        boxes = jnp.trunc(boxes)  # RoIs are of whole pixels
    # Without the shift of half a pixel, the convention has the centre of the first pixel at 0, but
    # here it is at 0.5.
    soft = conventions.mask_target == "soft"
    late, samples = (0.5, 4) if soft else (0.0, 1)
    sides, own_sides = conventions.sides(boxes), conventions.sides(own)
    axes = []
    for axis in (0, 1):
        places = (jnp.arange(size * samples) + 0.5) / (size * samples) * sides[axis][:, None]
        pixels = boxes[:, axis, None] + late + places
        length = jnp.maximum(own_sides[axis], 1e-6)[:, None]
        cells = (pixels - own[:, axis, None]) / length * side - 0.5
        weights = jnp.maximum(0, 1 - jnp.abs(cells[..., None] - jnp.arange(side)))
        axes.append(weights.reshape(-1, size, samples, side).mean(axis=2))
    columns, rows = axes
    sampled = jnp.einsum("rih,rhw,rjw->rij", rows, crops[index].astype(rows.dtype), columns)
    return sampled if soft else (sampled >= 0.5).astype(boxes.dtype)


def _pooled(
    masks: jax.Array, boxes: jax.Array, index: jax.Array, size: int, conventions: Conventions
) -> jax.Array:
    """Return the RoIAlign of masks at the image's scale, with an adaptive ratio."""
    rows, columns = roi_matrices(boxes, masks.shape[1:], size, 1.0, conventions, ratio=0)
    return jnp.einsum("rih,rhw,rjw->rij", rows, masks[index].astype(rows.dtype), columns)


def _aligned(masks: jax.Array, boxes: jax.Array, index: jax.Array, size: int) -> jax.Array:
    """Pool a mask with shifted RoIs; pixels of at least 0.5 are 1 (mmdetection 2.x)."""
    # A sum of weights that is exactly 0.5 may be rounded to either side of it.
    return (_pooled(masks, boxes, index, size, CENTER) >= 0.5 - 1e-6).astype(boxes.dtype)


def _soft(masks: jax.Array, boxes: jax.Array, index: jax.Array, size: int) -> jax.Array:
    """Pool a mask without a shift, and keep the values (torchvision)."""
    return _pooled(masks, boxes, index, size, TORCHVISION)


def _crop(masks: jax.Array, boxes: jax.Array, index: jax.Array, size: int) -> jax.Array:
    """Crop a mask at whole pixels and resize it as OpenCV resizes bytes (mmdetection 1.x)."""
    x1, y1, x2, y2 = jnp.trunc(boxes).astype(jnp.int32).T
    height, width = masks.shape[1:]
    rows = _byte_weights(y1, jnp.minimum(jnp.maximum(y2 + 1, y1 + 1), height) - y1, size, False)
    columns = _byte_weights(x1, jnp.minimum(jnp.maximum(x2 + 1, x1 + 1), width) - x1, size, True)
    total = 0
    for y, row_weight in rows:
        line = 0
        for x, weight in columns:
            pixels = masks[index[:, None, None], y[:, :, None], x[:, None, :]].astype(jnp.int32)
            line += weight[:, None, :] * pixels
        total += (row_weight[:, :, None] * (line >> 4)) >> 16
    return ((total + 2) >> 2).astype(boxes.dtype)  # type: ignore[attr-defined]


def _byte_weights(
    first: jax.Array, length: jax.Array, size: int, drops: bool
) -> list[tuple[jax.Array, jax.Array]]:
    """Return both pixels that each output pixel reads, and their weights in 1/2048.

    Args:
      first: first pixel of each crop, int32 [rois].
      length: pixels of each crop, int32 [rois].
      size: output pixels.
      drops: whether the weight of a pixel beyond the crop is dropped, as along rows, rather than
        given to the last pixel.
    """
    first, length = first[:, None], length[:, None]
    position = ((jnp.arange(size) + 0.5) * (length / size) - 0.5).astype(jnp.float32)
    low = jnp.floor(position)
    part = position - low
    low = low.astype(jnp.int32)
    if drops:
        part = jnp.where((low < 0) | (low >= length - 1), 0, part)
    pixels = [first + jnp.clip(each, 0, length - 1) for each in (low, low + 1)]
    weights = [jnp.round(each * _ONE).astype(jnp.int32) for each in (1 - part, part)]
    return list(zip(pixels, weights, strict=True))


TARGETS: dict[str, Callable[..., jax.Array]] = {
    "crop": _crop,
    "aligned": _aligned,
    "soft": _soft,
}
"""Functions of mask targets, see `mask_targets`."""


def paste_masks(
    probabilities: np.ndarray, boxes: np.ndarray, size: tuple[int, int], conventions: Conventions
) -> np.ndarray:
    """Return probabilities in the image's pixels, [n, height, width], on the host.

    Args:
      probabilities: masks of boxes [n, side, side].
      boxes: [n, 4] in pixels of this image.
      size: (height, width) of the image.
      conventions: see `Conventions`.
    """
    side, paste = probabilities.shape[-1], PASTES[conventions.paste]
    pasted = np.zeros((len(boxes), *size), probabilities.dtype)
    for each, mask, box in zip(pasted, probabilities, boxes, strict=True):
        rows, columns = paste(box, size, side)
        each[:] = rows @ mask @ columns.T
    return pasted


def paste_binary(
    probabilities: np.ndarray, box: np.ndarray, size: tuple[int, int], conventions: Conventions
) -> np.ndarray:
    """Return the mask of one box in the image's pixels, bool [height, width].

    It equals `binary_masks(paste_masks(...))`, but is computed only where the box is.

    Args:
      probabilities: mask of the box [side, side].
      box: [4] in pixels of this image.
      size: (height, width) of the image.
      conventions: see `Conventions`.
    """
    found = np.zeros(size, bool)
    weights = PASTES[conventions.paste](box, size, probabilities.shape[-1])
    places = [np.flatnonzero(each.any(axis=1)) for each in weights]
    if all(map(len, places)):
        rows, columns = (slice(each[0], each[-1] + 1) for each in places)
        pasted = weights[0][rows] @ probabilities @ weights[1][columns].T
        found[rows, columns] = binary_masks(pasted, conventions)
    return found


def binary_masks(pasted: np.ndarray, conventions: Conventions) -> np.ndarray:
    """Return which pixels belong to the objects: pasted > 0.5, or >= 0.5 in mmdetection 2.x."""
    return pasted >= 0.5 if conventions.paste == "sample" else pasted > 0.5


def _hat(position: np.ndarray, covered: np.ndarray, side: int) -> np.ndarray:
    """Return bilinear weights [pixels, side] of a mask's cells at positions [pixels]."""
    weights = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(side)))
    return np.where(covered[:, None], weights, 0)


def _whole(first: int, length: int, extent: int, side: int, border: int) -> np.ndarray:
    """Return the weights [extent, side] of a mask that is resized, with its border of zeros.

    Args:
      first: first pixel of the resized mask.
      length: number of its pixels.
      extent: number of pixels of the image.
      side: number of cells of the mask.
      border: number of cells of the border at each end.
    """
    pixels, most = np.arange(extent), side + 2 * border - 1
    position = (pixels - first + 0.5) * (side + 2 * border) / length - 0.5
    covered = (pixels >= first) & (pixels < first + length)
    return _hat(np.clip(position, 0, most) - border, covered, side)


def _resize(box: np.ndarray, size: tuple[int, int], side: int) -> tuple[np.ndarray, np.ndarray]:
    """Resize a mask to the pixels of its box, cut off to integers (mmdetection 1.x)."""
    x1, y1, x2, y2 = np.trunc(box).astype(int)
    rows = _whole(y1, max(y2 - y1 + 1, 1), size[0], side, 0)
    return rows, _whole(x1, max(x2 - x1 + 1, 1), size[1], side, 0)


def _padded(box: np.ndarray, size: tuple[int, int], side: int) -> tuple[np.ndarray, np.ndarray]:
    """Resize a mask with a border of zeros, to a box that is larger by the border (torchvision)."""
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * ((side + 2) / side)
    x1, y1 = np.trunc(centre - half).astype(int)
    x2, y2 = np.trunc(centre + half).astype(int)
    rows = _whole(y1, max(y2 - y1 + 1, 1), size[0], side, 1)
    return rows, _whole(x1, max(x2 - x1 + 1, 1), size[1], side, 1)


def _sample(box: np.ndarray, size: tuple[int, int], side: int) -> tuple[np.ndarray, np.ndarray]:
    """Sample a mask at the centres of pixels, with zeros outside (mmdetection 2.x)."""
    axes = []
    for extent, first, last in ((size[0], box[1], box[3]), (size[1], box[0], box[2])):
        length = last - first
        scale = side / length if length > 0 else math.inf
        pixels = np.arange(extent) + 0.5 - first
        position = pixels * scale - 0.5 if scale < math.inf else np.full(extent, -2.0)
        axes.append(_hat(position, np.ones(extent, bool), side))
    return axes[0], axes[1]


PASTES: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    "resize": _resize,
    "sample": _sample,
    "padded": _padded,
}
"""Functions from a box, the image's size and the mask's side to interpolation matrices."""
