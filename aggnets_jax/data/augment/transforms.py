"""Rectangles of an image that are blanked, or filled with noise."""

import enum

import jax
import jax.numpy as jnp
import numpy as np

from aggnets_jax.data.augment import pixels

# Of erased rectangles: part of the image's area, and height over width.
ERASED_AREA = (0.02, 0.33)
ERASED_ASPECT = (0.3, 1 / 0.3)
# Of sizes to draw until one fits into the image; each fails about once in 50 times in a square.
_TRIES = 10


def rectangle(
    top: jax.Array, left: jax.Array, height: jax.Array, width: jax.Array, size: tuple[int, int]
) -> jax.Array:
    """Returns which pixels of an image lie in a rectangle: bool [H, W, 1]."""
    y, x = jnp.indices(size, sparse=True)
    rows = (y >= top) & (y < top + height)
    columns = (x >= left) & (x < left + width)
    return (rows & columns)[..., None]


def cutout(key: jax.Array, image: jax.Array, *, side: int) -> jax.Array:
    """Sets a square to 0: its centre is any pixel, and what is outside the image is cut off.

    Of DeVries and Taylor, arXiv 1708.04552; to be applied after normalisation, where 0 is the mean.
    """
    height, width, _ = image.shape
    centre = jax.random.randint(key, (2,), 0, jnp.array([height, width]))
    top, left = centre - side // 2
    return jnp.where(rectangle(top, left, side, side, (height, width)), 0, image)


def erase(key: jax.Array, image: jax.Array, *, probability: float) -> jax.Array:
    """With some probability, fills a rectangle with uniform noise, of each pixel and channel.

    Of Zhong et al., arXiv 1708.04896: the area is uniform in ERASED_AREA, the aspect in
    ERASED_ASPECT, both drawn again if the rectangle does not fit, and then its place. The image is
    on the scale 0..255, before normalisation.
    """
    height, width, _ = image.shape
    size_key, place_key, noise_key = jax.random.split(key, 3)
    area, aspect = (
        low + (high - low) * draws
        for (low, high), draws in zip(
            (ERASED_AREA, ERASED_ASPECT), jax.random.uniform(size_key, (2, _TRIES)), strict=True
        )
    )
    extents = jnp.sqrt(height * width * area * jnp.stack([aspect, 1 / aspect])).round()
    fits = (extents < jnp.array([[height], [width]])).all(axis=0)
    extent = extents[:, jnp.argmax(fits)].astype(jnp.int32)
    chance, *place = jax.random.uniform(place_key, (3,))
    top, left = (jnp.stack(place) * (jnp.array([height, width]) - extent + 1)).astype(jnp.int32)
    used = (chance < probability) & fits.any()
    noise = jax.random.bits(noise_key, image.shape, jnp.uint8).astype(image.dtype)
    erased = used & rectangle(top, left, *extent, (height, width))
    return jnp.where(erased, noise, image)


def padded_crop(key: jax.Array, image: jax.Array, *, padding: int) -> jax.Array:
    """Pads with black by `padding` pixels and crops back anywhere: uint8 [H, W, C]."""
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)


def flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Mirrors left to right, one time in two: [H, W, C]."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


# Principal axes of the colours of ImageNet's pixels, as columns, each times its standard deviation;
# on the scale 0..1. From AlexNet (Krizhevsky et al., 2012, section 4.1); the numbers are those of
# Facebook's training of ResNets in Torch, which the field has since used.
COLOR_AXES = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]],
    np.float32,
) * np.array([0.2175, 0.0188, 0.0045], np.float32)


def jitter(key: jax.Array, image: jax.Array, *, strength: float) -> jax.Array:
    """Changes brightness, contrast and colour, in random order, by factors 1 +- `strength`.

    Each is that of PIL's `ImageEnhance`: uint8 [H, W, C], C 1 or 3.
    """
    order_key, factor_key = jax.random.split(key)
    qualities = np.array([pixels.BRIGHTNESS, pixels.CONTRAST, pixels.COLOR], np.int32)
    order = jax.random.permutation(order_key, qualities)
    factors = jax.random.uniform(factor_key, (3,), minval=1 - strength, maxval=1 + strength)
    factors = (pixels.UNIT * factors).astype(jnp.int32)
    return jax.lax.scan(
        lambda image, change: (pixels.enhance(image, *change), None), image, (order, factors)
    )[0]


def lighting(key: jax.Array, image: jax.Array, *, deviation: float) -> jax.Array:
    """Adds a colour to all pixels: on each axis, a normal deviate times its standard deviation.

    Args:
      key: of the image.
      image: [H, W, 3], on the scale 0..255.
      deviation: standard deviation of the normal deviates.

    Returns:
      float32 [H, W, 3]; not clipped.
    """
    shift = jnp.asarray(COLOR_AXES) @ (deviation * jax.random.normal(key, (3,)))
    return image.astype(jnp.float32) + 255 * shift


class Stream(enum.IntEnum):
    """A number for each augmentation, so that none changes what the others draw."""

    CROP = 0
    FLIP = 1
    POLICY = 2
    COLOR_JITTER = 3
    LIGHTING = 4
    CUTOUT = 5
    ERASING = 6
    MIX_BATCH = 7
    MIX_RATIO = 8


def example_key(seed: int | jax.Array, epoch: jax.Array, index: jax.Array) -> jax.Array:
    """Returns the key of an example in an epoch, from which each augmentation folds its own.

    The generator is named, so that jax_default_prng_impl cannot change the augmentation, and
    because others are not stable under vmap.
    """
    key = jax.random.key(seed, impl="threefry2x32")
    return jax.random.fold_in(jax.random.fold_in(key, epoch), index)
