"""Snow, frost and fog on one image, float [H, W, C] in 0..1, as functions of a key."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from aggnets_jax.data.corruptions import filters
from aggnets_jax.errors import UserError
from aggnets_jax.files import PathLike, any_path, explained

_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_PHOTOGRAPHS = 5  # the authors draw among the first five of their six
_SMALL_SCALE = 0.2  # factor of the photographs' sides, for small images


class Frost(NamedTuple):
    """Photographs of frost.

    Attributes:
      images: uint8 [n, height, width, 3]; each photograph fills the upper left corner.
      sizes: height and width of each photograph, int32 [n, 2].
    """

    images: np.ndarray
    sizes: np.ndarray


def read_frost(folder: PathLike, small: bool) -> Frost:
    """Read the authors' photographs `frost*` of a folder.

    They are in the folder ImageNet-C/create_c of https://github.com/hendrycks/robustness. For small
    images they are shrunk, as for CIFAR-10-C.

    Raises:
      UserError: if there are none, or one can't be read.
    """
    with explained(f"folder {folder} can't be read"):
        files = sorted(f for f in any_path(folder).iterdir() if f.name.startswith("frost"))
    if not files:
        raise UserError(f"folder {folder} has no photographs frost1.png, ..., frost6.jpg")
    found = []
    for file in files[:_PHOTOGRAPHS]:
        with explained(f"{file} is no image"), file.open("rb") as content:
            pixels = np.asarray(Image.open(content, formats=["PNG", "JPEG"]).convert("RGB"))
        if small:
            height, width = (round(side * _SMALL_SCALE) for side in pixels.shape[:2])
            resized = jax.image.resize(
                jnp.float32(pixels), (height, width, 3), "linear", antialias=False
            )
            pixels = np.asarray(jnp.round(resized)).astype(np.uint8)
        found.append(pixels)
    sizes = np.array([image.shape[:2] for image in found], np.int32)
    images = np.zeros((len(found), *sizes.max(axis=0), 3), np.uint8)
    for place, image in zip(images, found, strict=True):
        place[: image.shape[0], : image.shape[1]] = image
    return Frost(images, sizes)


def plasma(key: jax.Array, size: int, decay: float) -> jax.Array:
    """Return a height map in 0..1 by the diamond-square algorithm, float32 [size, size].

    The map is periodic, `size` is a power of two, and the range of the random numbers is divided by
    `decay` at each step.
    """
    heights = jnp.zeros((size, size))
    step, wobble = size, 100.0
    while step >= 2:
        half = step // 2
        key, *keys = jax.random.split(key, 4)

        def moved(total: jax.Array, key: jax.Array, wobble: float = wobble) -> jax.Array:
            noise = jax.random.uniform(key, total.shape, minval=-wobble, maxval=wobble)
            return total / 4 + wobble * noise

        corners = heights[::step, ::step]
        pairs = corners + jnp.roll(corners, -1, axis=0)
        middle = moved(pairs + jnp.roll(pairs, -1, axis=1), keys[0])
        above = middle + jnp.roll(middle, 1, axis=0) + corners + jnp.roll(corners, -1, axis=1)
        beside = middle + jnp.roll(middle, 1, axis=1) + corners + jnp.roll(corners, -1, axis=0)
        heights = heights.at[half::step, half::step].set(middle)
        heights = heights.at[::step, half::step].set(moved(above, keys[1]))
        heights = heights.at[half::step, ::step].set(moved(beside, keys[2]))
        step, wobble = half, wobble / decay
    heights -= heights.min()
    return heights / heights.max()


def _plasma_over(key: jax.Array, image: jax.Array, decay: float) -> jax.Array:
    """Return the corner of a height map that covers an image, [H, W, 1]."""
    height, width, _ = image.shape
    size = 1 << (max(height, width) - 1).bit_length()
    return plasma(key, size, decay)[:height, :width, None]


def fog(key: jax.Array, image: jax.Array, strength: float, decay: float) -> jax.Array:
    """Add a height map, and scale the sum back to the image's range."""
    largest = image.max()
    hazy = image + strength * _plasma_over(key, image, decay)
    return hazy * largest / (largest + strength)


def frost(
    key: jax.Array, image: jax.Array, own: float, added: float, *, photographs: Frost | None = None
) -> jax.Array:
    """Add a random part of a random photograph of frost.

    Without photographs, the frost is drawn: it is where a height map is near 1/2.

    Args:
      key: random key.
      image: [H, W, C].
      own: weight of the image.
      added: weight of the frost.
      photographs: from `read_frost`.
    """
    if photographs is None:
        return own * image + added * (1 - jnp.abs(2 * _plasma_over(key, image, 2) - 1))
    height, width, channels = image.shape
    which_key, place_key = jax.random.split(key)
    which = jax.random.randint(which_key, (), 0, len(photographs.images))
    free = jnp.asarray(photographs.sizes)[which] - jnp.array([height, width])
    top, left = jax.random.randint(place_key, (2,), 0, jnp.maximum(free, 1))
    part = jnp.asarray(photographs.images)[which]
    part = jax.lax.dynamic_slice(part, (top, left, 0), (height, width, 3)).astype(jnp.float32)
    part /= 255
    return own * image + added * (part if channels == 3 else part @ _GREY[:, None])


def snow(
    key: jax.Array,
    image: jax.Array,
    mean: float,
    deviation: float,
    enlarged: float,
    least: float,
    radius: float,
    sigma: float,
    own: float,
) -> jax.Array:
    """Whiten an image, and add a layer of falling flakes, and the layer turned by 180 degrees.

    Args:
      key: random key.
      image: [H, W, C].
      mean: mean of the normal numbers, of which large ones are flakes.
      deviation: standard deviation of these numbers.
      enlarged: factor of the size of the flakes.
      least: smallest number that is a flake.
      radius: radius of the motion blur of the flakes.
      sigma: standard deviation of the motion blur.
      own: weight of the image itself, beside the whitened one.
    """
    height, width, channels = image.shape
    normal_key, angle_key = jax.random.split(key)
    flakes = mean + deviation * jax.random.normal(normal_key, (height, width, 1))
    flakes = filters.separable(
        filters.zoom(height, enlarged), filters.zoom(width, enlarged), flakes
    )
    flakes = filters.levels(jnp.clip(jnp.where(flakes < least, 0, flakes), 0, 1)) / 255
    angle = jax.random.uniform(angle_key, minval=-135.0, maxval=-45.0)
    flakes = jnp.round(255 * filters.motion_blur(flakes, angle, radius, sigma)) / 255
    grey = image if channels == 1 else image @ _GREY[:, None]
    image = own * image + (1 - own) * jnp.maximum(image, 1.5 * grey + 0.5)
    return image + flakes + jnp.rot90(flakes, 2)
