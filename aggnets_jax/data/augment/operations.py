"""The operations of augmentation policies, as arrays."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from aggnets_jax.data.augment import pixels

_ALL_LEVELS = np.arange(256)
_IDENTITY_MATRIX = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


class Operation(NamedTuple):
    """An operation, or, with leading axes, several.

    Attributes:
      matrix: argument of `pixels.affine`, int32 [..., 6].
      table: argument of `pixels.remap`, uint8 [..., 256].
      source: argument of `pixels.remap`, int32 [...].
      quality: argument of `pixels.enhance`, int32 [...].
      factor: argument of `pixels.enhance`, times UNIT, int32 [...].
    """

    matrix: np.ndarray | jax.Array
    table: np.ndarray | jax.Array
    source: np.ndarray | jax.Array
    quality: np.ndarray | jax.Array
    factor: np.ndarray | jax.Array

    def __call__(self, image: jax.Array) -> jax.Array:
        """Apply a single operation to an image: uint8 [H, W, C]."""
        image = pixels.affine(image, self.matrix)
        image = pixels.remap(image, self.table, self.source)
        return pixels.enhance(image, self.quality, self.factor)


def _operation(
    matrix: tuple[float, ...] = _IDENTITY_MATRIX,
    table: np.ndarray = _ALL_LEVELS,
    source: int = pixels.GIVEN,
    quality: int = pixels.UNCHANGED,
    factor: float = 1.0,
) -> Operation:
    return Operation(
        pixels.fixed_point(matrix),
        table.astype(np.uint8),
        np.int32(source),
        np.int32(quality),
        np.int32(round(factor * pixels.UNIT)),
    )


def _rotation(degrees: float, size: tuple[int, int]) -> tuple[float, ...]:
    """Return the matrix of an anticlockwise rotation about the centre."""
    y, x = size[0] / 2, size[1] / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


def _posterized(strength: float) -> np.ndarray:
    return _ALL_LEVELS & (256 - (1 << round(4 * strength)))


def _solarized(strength: float) -> np.ndarray:
    threshold = 256 - 256 * strength
    return np.where(threshold > _ALL_LEVELS, _ALL_LEVELS, 255 - _ALL_LEVELS)


def _enhancement(quality: int) -> Callable[..., Operation]:
    return lambda strength, size: _operation(quality=quality, factor=0.1 + 1.8 * strength)


# The operations of AutoAugment (Cubuk et al., arXiv 1805.09501, table 6) as functions of the
# strength, from 0 to 1, or to -1 in the mirrored direction, and the image's (height, width).
OPERATIONS: dict[str, Callable[[float, tuple[int, int]], Operation]] = {
    "identity": lambda strength, size: _operation(),
    "shear_x": lambda strength, size: _operation((1, 0.3 * strength, 0, 0, 1, 0)),
    "shear_y": lambda strength, size: _operation((1, 0, 0, 0.3 * strength, 1, 0)),
    "translate_x": lambda strength, size: _operation(
        (1, 0, int(150 / 331 * strength * size[1]), 0, 1, 0)
    ),
    "translate_y": lambda strength, size: _operation(
        (1, 0, 0, 0, 1, int(150 / 331 * strength * size[0]))
    ),
    "rotate": lambda strength, size: _operation(_rotation(30 * strength, size)),
    "posterize": lambda strength, size: _operation(table=_posterized(strength)),
    "solarize": lambda strength, size: _operation(table=_solarized(strength)),
    "invert": lambda strength, size: _operation(table=_ALL_LEVELS[::-1]),
    "autocontrast": lambda strength, size: _operation(source=pixels.AUTOCONTRAST),
    "equalize": lambda strength, size: _operation(source=pixels.EQUALIZE),
    "brightness": _enhancement(pixels.BRIGHTNESS),
    "contrast": _enhancement(pixels.CONTRAST),
    "color": _enhancement(pixels.COLOR),
    "sharpness": _enhancement(pixels.SHARPNESS),
}

# Operations with a direction, which is chosen at random.
SIGNED = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")


def both_directions(name: str, strength: float, size: tuple[int, int]) -> list[Operation]:
    """Return an operation in both directions, or twice if it has no direction."""
    mirrored = -strength if name in SIGNED else strength
    return [OPERATIONS[name](s, size) for s in (strength, mirrored)]


def stack(operations: list) -> Operation:
    """Return the operations of equally nested lists as one, with leading axes for the lists."""
    parts = [stack(part) if isinstance(part, list) else part for part in operations]
    return jax.tree.map(lambda *arrays: np.stack(arrays), *parts)
