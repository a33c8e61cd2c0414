"""The fifteen common corruptions of images, on the devices, each at five severities.

Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019, arXiv 1903.12261. Constants and order of the steps are the authors'
(https://github.com/hendrycks/robustness). The random numbers are JAX's, so an image differs from
its counterpart in CIFAR-10-C or ImageNet-C, but not the distribution; ImageNet-C's images were also
compressed by JPEG at quality 85 when they were stored.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from aggnets_jax.data.corruptions import filters, operations, weather
from aggnets_jax.data.corruptions.jpeg import jpeg_compression
from aggnets_jax.data.corruptions.severities import SEVERITIES, constants, is_small
from aggnets_jax.data.corruptions.weather import Frost, read_frost
from aggnets_jax.errors import UserError, unknown

__all__ = ["CORRUPTIONS", "SEVERITIES", "Frost", "is_small", "make_corruption", "read_frost"]

_OPERATIONS: dict[str, Callable[..., jax.Array]] = {
    "gaussian_noise": operations.gaussian_noise,
    "shot_noise": operations.shot_noise,
    "impulse_noise": operations.impulse_noise,
    "defocus_blur": operations.defocus_blur,
    "glass_blur": operations.glass_blur,
    "motion_blur": operations.motion_blur,
    "zoom_blur": operations.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": operations.brightness,
    "contrast": operations.contrast,
    "elastic_transform": operations.elastic_transform,
    "pixelate": operations.pixelate,
    "jpeg_compression": jpeg_compression,
}
CORRUPTIONS = tuple(_OPERATIONS)
"""Names, in the order of the paper."""

_LEAST = 8  # pixels of a side, a block of JPEG


def make_corruption(
    name: str, severity: int, shape: tuple[int, int, int], frost: Frost | None = None
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Make the function `(key, image) -> image` of a corruption, for images uint8 [H, W, C].

    Images of up to 64 pixels a side have the constants of CIFAR-10-C, larger ones of ImageNet-C.
    Values are rounded down to whole numbers, as the authors store them.

    Args:
      name: one of `CORRUPTIONS`.
      severity: 1 to 5.
      shape: (height, width, channels) of the images.
      frost: photographs for "frost", from `read_frost`; None: the frost is drawn.

    Raises:
      UserError: for another name, severity or number of channels, or images that are too small.
    """
    if name not in _OPERATIONS:
        raise unknown("corruption", name, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise unknown("severity", str(severity), map(str, SEVERITIES))
    if shape[2] not in (1, 3) or min(shape[:2]) < _LEAST:
        needed = f"of 1 or 3 channels, of at least {_LEAST} pixels a side"
        raise UserError(f"corruptions are for images {needed}, not of {list(shape)}")
    operation = _OPERATIONS[name]
    if name == "frost":
        if frost is not None and (frost.sizes.min(axis=0) < shape[:2]).any():
            smallest = "x".join(map(str, frost.sizes.min(axis=0)))
            raise UserError(f"photographs of frost of {smallest} pixels are too small for {shape}")
        operation = partial(operation, photographs=frost)
    fixed = constants(name, severity, shape)

    def corrupt(key: jax.Array, image: jax.Array) -> jax.Array:
        found = operation(key, image.astype(jnp.float32) / 255, *fixed)
        return filters.levels(jnp.clip(found, 0, 1)).astype(jnp.uint8)

    return corrupt
