"""Anchors: boxes of three shapes at every cell of every level of the pyramid.

Source: Ren et al., arXiv 1506.01497, Section 3.1.1; with a pyramid each level has one scale (Lin et
al., arXiv 1612.03144, Section 4.1).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from aggnets_jax.detection.conventions import Conventions

RATIOS = (0.5, 1.0, 2.0)
"""Height / width of the anchors of a cell."""

SCALE = 8
"""Side of the square anchor in strides."""


def map_sizes(padded: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Return (height, width) of each level's map for images of a padded size (height, width)."""
    return [(-(-padded[0] // stride), -(-padded[1] // stride)) for stride in strides]


def base_anchors(
    stride: int,
    conventions: Conventions,
    *,
    scale: float = SCALE,
    ratios: Sequence[float] = RATIOS,
) -> np.ndarray:
    """Return the anchors of the first cell, float64 [ratios, 4].

    Width and height are stride * scale / sqrt(r) and stride * scale * sqrt(r), r = height / width.

    Args:
      stride: stride of the level in pixels.
      conventions: see `Conventions`.
      scale: side of the square anchor in strides.
      ratios: height / width of each anchor.
    """
    root = np.sqrt(np.asarray(ratios, np.float64))
    sides = np.stack([stride * scale / root, stride * scale * root], axis=-1)
    # With an extent, the middle of the pixels 0 to stride - 1; else the corner of the cell.
    centre = 0.5 * (stride - 1) if conventions.extent else 0.0
    half = 0.5 * (sides - conventions.extent)
    anchors = np.concatenate([centre - half, centre + half], axis=-1)
    return np.round(anchors) if conventions.rounded_anchors else anchors


def level_anchors(
    padded: Sequence[int],
    strides: Sequence[int],
    conventions: Conventions,
    *,
    scale: float = SCALE,
    ratios: Sequence[float] = RATIOS,
    dtype: DTypeLike = jnp.float32,
) -> list[jax.Array]:
    """Return each level's anchors [rows * columns * ratios, 4], by row, column and ratio.

    Args:
      padded: (height, width) of the padded images in pixels.
      strides: stride of each level.
      conventions: see `Conventions`.
      scale: see `base_anchors`.
      ratios: see `base_anchors`.
      dtype: dtype of the result.
    """
    levels = []
    for stride, (rows, columns) in zip(strides, map_sizes(padded, strides), strict=True):
        base = base_anchors(stride, conventions, scale=scale, ratios=ratios)
        down, right = stride, stride
        if conventions.stride_from_map:
            down, right = padded[0] // rows, padded[1] // columns
        y, x = jnp.meshgrid(jnp.arange(rows) * down, jnp.arange(columns) * right, indexing="ij")
        shifts = jnp.stack([x, y, x, y], axis=-1).astype(dtype)
        levels.append((shifts[:, :, None] + jnp.asarray(base, dtype)).reshape(-1, 4))
    return levels
