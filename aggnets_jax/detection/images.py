"""Sizes of images: resized, and padded for the network."""

import math
from collections.abc import Sequence

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
