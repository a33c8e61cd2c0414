"""Sizes of images for a detector, resized and padded, and the resizing."""

import math
from collections.abc import Sequence

import numpy as np

from aggnets_jax.detection.conventions import Conventions

LONG, SHORT, DIVISOR = 1333, 800, 32


def resized(
    size: Sequence[int], conventions: Conventions, *, long: int = LONG, short: int = SHORT
) -> tuple[tuple[int, int], float]:
    """Return the (height, width) of a resized image, and the factor of its sides.

    The factor is the largest one with which the longer side is at most `long`, and the shorter side
    at most `short`.

    Args:
      size: (height, width) of the image in pixels.
      conventions: see `Conventions`.
      long: most pixels of the longer side.
      short: most pixels of the shorter side.
    """
    factor = min(long / max(size), short / min(size))
    rounding = 0.5 if conventions.rounds_size else 0.0
    height, width = (math.floor(side * factor + rounding) for side in size)
    return (height, width), factor


def padded(size: Sequence[int], divisor: int = DIVISOR) -> tuple[int, int]:
    """Return the (height, width) rounded up to multiples of the divisor."""
    height, width = (-(-side // divisor) * divisor for side in size)
    return height, width


def resize(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Resize an image [height, width, channels] bilinearly, on the host, in its floating dtype.

    Values beyond the border are those at the border, and nothing is smoothed when an image shrinks,
    as in `torch.nn.functional.interpolate` without `align_corners` and `antialias`.
    """
    for axis, length in enumerate(size):
        extent = image.shape[axis]
        position = np.clip((np.arange(length) + 0.5) * extent / length - 0.5, 0, extent - 1)
        low = np.floor(position).astype(int)
        shape = [-1 if each == axis else 1 for each in range(image.ndim)]
        part = (position - low).astype(image.dtype).reshape(shape)
        before, after = (
            np.take(image, pixels, axis) for pixels in (low, np.minimum(low + 1, extent - 1))
        )
        image = before + part * (after - before)
    return image
