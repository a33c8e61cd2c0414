"""Boxes: IoU, clipping, and the encoding of boxes as the deltas that a head predicts.

Source: Ren et al., "Faster R-CNN", arXiv 1506.01497, eq. 2. Boxes are (x1, y1, x2, y2) in pixels;
all functions are in the dtype of the boxes, which should be at least float32.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from aggnets_jax.detection.conventions import Conventions

RPN_STDS = (1.0, 1.0, 1.0, 1.0)
ROI_STDS = (0.1, 0.1, 0.2, 0.2)
"""Standard deviations by which the deltas (dx, dy, dw, dh) of both heads are divided."""

MOST_SCALE = abs(math.log(16 / 1000))
"""Bound of dw and dh in decoding."""


def iou(boxes: jax.Array, others: jax.Array, conventions: Conventions) -> jax.Array:
    """Return the intersection over union [n, m] of boxes [n, 4] and others [m, 4].

    Pairs without any area have IoU 0.
    """
    corner = jnp.maximum(boxes[:, None, :2], others[None, :, :2])
    end = jnp.minimum(boxes[:, None, 2:], others[None, :, 2:])
    sides = jnp.maximum(end - corner + conventions.extent, 0)
    intersection = sides[..., 0] * sides[..., 1]
    union = area(boxes, conventions)[:, None] + area(others, conventions)[None] - intersection
    return jnp.where(union > 0, intersection / jnp.where(union > 0, union, 1), 0)


def area(boxes: jax.Array, conventions: Conventions) -> jax.Array:
    """Return the areas [...] of boxes [..., 4] in square pixels."""
    width, height = conventions.sides(boxes)
    return width * height


def clip(boxes: jax.Array, size: jax.Array, conventions: Conventions) -> jax.Array:
    """Clip boxes [..., 4] to an image of a size (height, width) [2], without its padding."""
    height, width = size[0] - conventions.extent, size[1] - conventions.extent
    most = jnp.stack([width, height, width, height]).astype(boxes.dtype)
    return jnp.clip(boxes, 0, most)


def inside(boxes: jax.Array, size: jax.Array) -> jax.Array:
    """Return which boxes [n, 4] have x1, y1 >= 0, x2 < width and y2 < height, bool [n].

    `size` is the (height, width) of the image [2].
    """
    x1, y1, x2, y2 = boxes.T
    return (x1 >= 0) & (y1 >= 0) & (x2 < size[1]) & (y2 < size[0])


def encode(
    boxes: jax.Array, references: jax.Array, stds: Sequence[float], conventions: Conventions
) -> jax.Array:
    """Return the deltas [..., 4] that move references [..., 4] to boxes [..., 4].

    Deltas of rows whose sides are not positive have no meaning, but are finite.
    """
    size, reference = _sides(boxes, conventions), _sides(references, conventions)
    size, reference = (jnp.where(side > 0, side, 1) for side in (size, reference))
    shift = (_centre(boxes) - _centre(references)) / reference
    deltas = jnp.concatenate([shift, jnp.log(size / reference)], axis=-1)
    return deltas / jnp.asarray(stds, deltas.dtype)


def decode(
    deltas: jax.Array, references: jax.Array, stds: Sequence[float], conventions: Conventions
) -> jax.Array:
    """Return references [..., 4] moved by deltas [..., 4]."""
    deltas = deltas * jnp.asarray(stds, deltas.dtype)
    reference = _sides(references, conventions)
    least = -MOST_SCALE if conventions.clips_shrinking else None
    centre = _centre(references) + reference * deltas[..., :2]
    # The corner pixels of a box of sides w, h are (w - extent) / 2 from its centre.
    half = 0.5 * reference * jnp.exp(jnp.clip(deltas[..., 2:], least, MOST_SCALE))
    half = half - 0.5 * conventions.extent
    return jnp.concatenate([centre - half, centre + half], axis=-1)


def _sides(boxes: jax.Array, conventions: Conventions) -> jax.Array:
    return jnp.stack(conventions.sides(boxes), axis=-1)


def _centre(boxes: jax.Array) -> jax.Array:
    return 0.5 * (boxes[..., :2] + boxes[..., 2:])
