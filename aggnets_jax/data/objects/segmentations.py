"""Masks in COCO's format: checked, because pycocotools trusts them, and decoded.

A mask is a list of polygons (x1, y1, x2, y2, ...), or the lengths of runs of 0 and 1 along columns,
as a list of numbers or compressed to text.
"""

import functools
import math
from typing import Any

import numpy as np

from aggnets_jax.errors import import_optional

# Sides of the image by which a polygon may leave it; pycocotools crashes at large numbers.
_FURTHEST = 4


def mask_problem(mask: Any, height: int, width: int) -> str | None:
    """Return the mistake in a mask of an image of this size, or None."""
    if isinstance(mask, dict):
        counts = mask.get("counts")
        if mask.get("size") != [height, width]:
            return f"has a mask of the size {mask.get('size')!r}, not [{height}, {width}]"
        if isinstance(counts, str):
            counts = _decompressed(counts)
        if not isinstance(counts, list):
            return "has a mask without counts"
        whole = all(type(count) is int and count >= 0 for count in counts)
        if not whole or sum(counts) != height * width:
            return "has a mask whose counts don't add up to its image"
        return None
    if not (isinstance(mask, list) and mask and all(map(_is_polygon, mask))):
        return (
            "needs a mask: polygons of three points or more, or run-length counts (or, for boxes"
            " alone, config.task_args.detector='faster_rcnn_fpn')"
        )
    furthest = _FURTHEST * max(height, width)
    if any(abs(number) > furthest for polygon in mask for number in polygon):
        return "has a polygon far outside its image"
    return None


def is_finite(value: Any) -> bool:
    """Return whether a value of JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_polygon(value: Any) -> bool:
    """Return whether a value is a list of coordinates of three points or more."""
    points = isinstance(value, list) and len(value) >= 6 and len(value) % 2 == 0
    return points and all(map(is_finite, value))


def _decompressed(text: str) -> list[int] | None:
    """Return the counts of compressed text, or None if it is none.

    Each count has digits of 5 bits, the lowest first, in characters from "0" on; bit 5 says that
    more follow. From the fourth count on it is the difference from the count before the last.
    """
    counts: list[int] = []
    value = place = 0
    for character in text:
        digit = ord(character) - 48
        if not 0 <= digit < 64:
            return None
        value |= (digit & 31) << place
        place += 5
        if not digit & 32:
            value -= (1 << place) if digit & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = place = 0
    return None if place else counts


def decode_mask(mask: Any, height: int, width: int) -> np.ndarray:
    """Return a mask without a problem as uint8 [height, width]."""
    coding = mask_coding()
    if isinstance(mask, list):
        encoded = coding.merge(coding.frPyObjects(mask, height, width))
    elif isinstance(mask["counts"], list):
        encoded = coding.frPyObjects(mask, height, width)
    else:
        encoded = mask
    return coding.decode(encoded)


@functools.cache
def mask_coding() -> Any:
    """Return the module `pycocotools.mask`; raise `UserError` if it is not installed."""
    missing = "detection needs pycocotools: pip install 'aggnets-jax[coco]'"
    return import_optional("pycocotools.mask", missing)
