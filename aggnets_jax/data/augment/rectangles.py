"""Rectangles of an image that are blanked, or filled with noise."""

import jax
import jax.numpy as jnp

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
