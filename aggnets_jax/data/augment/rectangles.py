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
    use_key, area_key, aspect_key, place_key, noise_key = jax.random.split(key, 5)
    low, high = ERASED_AREA
    area = jax.random.uniform(area_key, (_TRIES,), minval=low, maxval=high) * height * width
    low, high = ERASED_ASPECT
    aspect = jax.random.uniform(aspect_key, (_TRIES,), minval=low, maxval=high)
    heights, widths = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
    fits = (heights < height) & (widths < width)
    used = jax.random.bernoulli(use_key, probability) & fits.any()
    first = jnp.argmax(fits)
    extent = jnp.stack([heights[first], widths[first]]).astype(jnp.int32)
    top, left = jax.random.randint(
        place_key, (2,), 0, jnp.maximum(jnp.array([height, width]) - extent, 0) + 1
    )
    noise = jax.random.bits(noise_key, image.shape, jnp.uint8).astype(image.dtype)
    erased = used & rectangle(top, left, *extent, (height, width))
    return jnp.where(erased, noise, image)
