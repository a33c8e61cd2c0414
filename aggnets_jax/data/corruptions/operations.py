"""Noise, blur and digital corruptions of an image, float [H, W, C] in 0..1, by a random key."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import ndimage

from aggnets_jax.data.corruptions import filters


def gaussian_noise(key: jax.Array, image: jax.Array, deviation: float) -> jax.Array:
    """Add normal noise."""
    return image + deviation * jax.random.normal(key, image.shape)


def shot_noise(key: jax.Array, image: jax.Array, photons: float) -> jax.Array:
    """Replace values by Poisson counts of photons, whose mean is `photons` for the value 1."""
    return jax.random.poisson(key, image * photons).astype(jnp.float32) / photons


def impulse_noise(key: jax.Array, image: jax.Array, amount: float) -> jax.Array:
    """Set the share `amount` of the values to 0 or 1, each with probability 1/2."""
    hit_key, salt_key = jax.random.split(key)
    hit = jax.random.bernoulli(hit_key, amount, image.shape)
    salt = jax.random.bernoulli(salt_key, 0.5, image.shape)
    return jnp.where(hit, salt.astype(image.dtype), image)


def defocus_blur(key: jax.Array, image: jax.Array, radius: float, edge: float) -> jax.Array:
    """Average over a disk whose edge is smoothed by a Gaussian."""
    del key
    return filters.correlate(image, filters.disk(radius, edge))


def glass_blur(
    key: jax.Array, image: jax.Array, sigma: float, distance: int, times: int
) -> jax.Array:
    """Blur, move pixels by at most `distance` in each of several rounds, and blur again."""
    levels = filters.levels(filters.gaussian_blur(image, sigma))
    shape = (times, *image.shape[:2], 2)
    moves = jax.random.randint(key, shape, -distance, distance)
    for each in moves:
        levels = move_pixels(levels, each, distance)
    return filters.gaussian_blur(levels / 255, sigma)


def move_pixels(image: jax.Array, moves: jax.Array, distance: int) -> jax.Array:
    """Give each pixel the value of one nearby, one after the other, from the last to the first.

    The authors' code means to exchange both, but writes the first value over the second alone.
    ImageNet-C and CIFAR-10-C are made in this way.

    Args:
      image: [H, W, C].
      moves: rows and columns from a pixel to the other one, int [H, W, 2].
      distance: width of the border, whose pixels stay.
    """
    height, width = image.shape[:2]
    y, x = jnp.indices((height, width))
    inside = (y > distance) & (y <= height - distance) & (x > distance) & (x <= width - distance)
    place = y * width + x
    source = jnp.where(inside, place + moves[..., 0] * width + moves[..., 1], place).ravel()
    inside, place = inside.ravel(), place.ravel()
    # A source that was replaced before passes on its new value, so that chains of places arise, in
    # ascending order. Doubling the steps finds the ends of all chains.
    end = jnp.where(inside[source] & (source > place), source, place)
    for _ in range(math.ceil(math.log2(height * width))):
        end = end[end]
    return image.reshape(height * width, -1)[source[end]].reshape(image.shape)


def motion_blur(key: jax.Array, image: jax.Array, radius: float, sigma: float) -> jax.Array:
    """Smear the image along a random direction within 45 degrees of the horizontal."""
    angle = jax.random.uniform(key, minval=-45.0, maxval=45.0)
    return jnp.round(255 * filters.motion_blur(image, angle, radius, sigma)) / 255


def zoom_blur(key: jax.Array, image: jax.Array, stop: float, step: float) -> jax.Array:
    """Average the image with its enlargements by factors from 1 to `stop`."""
    del key
    factors = np.arange(1, stop, step)
    rows, columns = (
        jnp.stack([jnp.float32(filters.zoom(size, factor)) for factor in factors])
        for size in image.shape[:2]
    )

    def add(total: jax.Array, matrices: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + filters.separable(*matrices, image), None

    return jax.lax.scan(add, image, (rows, columns))[0] / (len(factors) + 1)


def brightness(key: jax.Array, image: jax.Array, shift: float) -> jax.Array:
    """Raise the value of HSV, which keeps the ratios of the channels."""
    del key
    value = image.max(axis=-1, keepdims=True)
    raised = jnp.clip(value + shift, 0, 1)
    return jnp.where(value > 0, image * raised / jnp.where(value > 0, value, 1), raised)


def contrast(key: jax.Array, image: jax.Array, factor: float) -> jax.Array:
    """Shrink the distances from the mean of each channel."""
    del key
    mean = image.mean(axis=(0, 1), keepdims=True)
    return (image - mean) * factor + mean


def elastic_transform(
    key: jax.Array, image: jax.Array, strength: float, sigma: float, shift: float
) -> jax.Array:
    """Warp an image by a random affine map, and then by a smooth random field.

    Args:
      key: random key.
      image: [H, W, C].
      strength: factor of the field.
      sigma: standard deviation of the Gaussian that smooths the field.
      shift: largest shift of the three points of the affine map. All three lengths are in units of
        the image's height.
    """
    height, width, _ = image.shape
    strength, sigma, shift = (height * length for length in (strength, sigma, shift))
    point_key, *field_keys = jax.random.split(key, 3)
    middle, reach = np.array([height // 2, width // 2]), min(height, width) // 3
    points = middle + reach * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = points + jax.random.uniform(point_key, (3, 2), minval=-shift, maxval=shift)
    corners = jnp.concatenate([moved, jnp.ones((3, 1))], axis=1)
    inverse = jnp.linalg.solve(corners, jnp.float32(points))  # [3, 2]: from new to old places
    y, x = jnp.indices((height, width), dtype=jnp.float32)
    old_x, old_y = (inverse[0, i] * x + inverse[1, i] * y + inverse[2, i] for i in (0, 1))
    image = _sample(image, old_y, old_x, "mirror")
    rows, columns = (
        filters.gaussian(size, sigma, mode="reflect", truncate=3) for size in (height, width)
    )
    dx, dy = (
        strength
        * filters.separable(rows, columns, jax.random.uniform(each, (height, width, 1), minval=-1))[
            ..., 0
        ]
        for each in field_keys
    )
    return _sample(image, y + dy, x + dx, "reflect")


def _sample(image: jax.Array, y: jax.Array, x: jax.Array, mode: str) -> jax.Array:
    """Return values at places, interpolated linearly; `mode` is SciPy's name of the boundary."""
    sample = partial(ndimage.map_coordinates, coordinates=[y, x], order=1, mode=mode)
    return jax.vmap(sample, in_axes=-1, out_axes=-1)(image)


def pixelate(key: jax.Array, image: jax.Array, factor: float) -> jax.Array:
    """Shrink and enlarge an image by PIL's BOX, which rounds after each axis."""
    del key
    levels = 255 * image
    sizes = image.shape[:2]
    small = [int(size * factor) for size in sizes]
    for old, new in ((sizes, small), (small, sizes)):
        rows, columns = (filters.box_resize(a, b) for a, b in zip(old, new, strict=True))
        levels = jnp.floor(filters.separable(np.eye(old[0]), columns, levels) + 0.5)
        levels = jnp.floor(filters.separable(rows, np.eye(new[1]), levels) + 0.5)
    return levels / 255
