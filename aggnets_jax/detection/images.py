"""Sizes of images: resized, and padded for the network."""

import math
from collections.abc import Sequence

import numpy as np

from aggnets_jax.detection.conventions import Conventions

LONG, SHORT, DIVISOR = 1333, 800, 32


def resized(
    size: Sequence[int], conventions: Conventions, *, long: int = LONG, short: int = SHORT
) -> tuple[tuple[int, int], float]:
    """Return the (height, width) of a resized image, and the factor.

    The factor is the largest by which the sides become at most `long` and `short`.

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
    """Resize an image [height, width, channels] bilinearly, on the host, in its dtype.

    Pixels are squares, those at the border reach beyond it, and nothing is smoothed, as in
    `torch.nn.functional.interpolate` without `align_corners`.
    """
    rows, columns = (
        interpolation(length, extent) for length, extent in zip(size, image.shape, strict=False)
    )
    resized = np.einsum("ih,hwc,jw->ijc", rows, image, columns, optimize=True)
    return resized.astype(image.dtype)


def interpolation(length: int, extent: int) -> np.ndarray:
    """Return the weights [length, extent] of pixels that are resized to `length` pixels."""
    position = np.clip((np.arange(length) + 0.5) * extent / length - 0.5, 0, extent - 1)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(extent)))
