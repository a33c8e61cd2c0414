"""Random changes of one image, `(key, image) -> image`, and their random keys."""

import enum

import jax
import jax.numpy as jnp
import numpy as np

from aggnets_jax.data.augment import pixels

# Principal axes of the colours of ImageNet's pixels, on the scale 0..1: one column for each axis,
# times its standard deviation. From AlexNet (Krizhevsky et al., 2012, section 4.1), with the
# numbers of Facebook's training of ResNets in Torch, which have been used since.
COLOR_AXES = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]], np.float32
) * np.array([0.2175, 0.0188, 0.0045], np.float32)

# Range of an erased rectangle's part of the image's area, and of its height over its width.
ERASED_AREA = (0.02, 0.33)
ERASED_ASPECT = (0.3, 1 / 0.3)
# Sizes drawn for an erased rectangle; the first that fits is used. In a square image, about one in
# 50 does not fit.
_TRIES = 10


class Stream(enum.IntEnum):
    """A number for each augmentation; separate keys keep their random draws independent."""

    CROP, FLIP, POLICY, COLOR_JITTER, LIGHTING, CUTOUT, ERASING, MIX_BATCH, MIX_RATIO = range(9)


def example_key(seed: int | jax.Array, epoch: jax.Array, index: jax.Array) -> jax.Array:
    """Return the key of an example in an epoch, from which each augmentation folds its own.

    The generator is named, so that jax_default_prng_impl cannot change the augmentation, and
    because the others depend on the batch under vmap.
    """
    key = jax.random.key(seed, impl="threefry2x32")
    return jax.random.fold_in(jax.random.fold_in(key, epoch), index)


def padded_crop(key: jax.Array, image: jax.Array, *, padding: int) -> jax.Array:
    """Pad an image with black by `padding` pixels and crop to its size at random: [H, W, C]."""
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)


def flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Mirror an image [H, W, C] left to right with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def jitter(key: jax.Array, image: jax.Array, *, strength: float) -> jax.Array:
    """Change brightness, contrast and colour, in random order, by factors 1 +- `strength`.

    Each change is PIL's `ImageEnhance`: uint8 [H, W, C], C 1 or 3.
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
    """Add one random colour to all pixels: on each of COLOR_AXES, a normal deviate times the axis.

    From images [H, W, 3] on the scale 0..255 to float32, not clipped. `deviation` is the standard
    deviation of the deviates.
    """
    shift = jnp.asarray(COLOR_AXES) @ (deviation * jax.random.normal(key, (3,)))
    return image.astype(jnp.float32) + 255 * shift


def erase(key: jax.Array, image: jax.Array, *, probability: float) -> jax.Array:
    """Fill a random rectangle with uniform noise, with some probability: [H, W, C] on 0..255.

    From Zhong et al., arXiv 1708.04896: the area is uniform in ERASED_AREA and the aspect in
    ERASED_ASPECT, both drawn again if the rectangle does not fit; then the place is uniform, too.
    """
    height, width, _ = image.shape
    size_key, place_key, noise_key = jax.random.split(key, 3)
    draws = jax.random.uniform(size_key, (2, _TRIES))
    ranges = zip((ERASED_AREA, ERASED_ASPECT), draws, strict=True)
    area, aspect = (low + (high - low) * drawn for (low, high), drawn in ranges)
    extents = jnp.sqrt(height * width * area * jnp.stack([aspect, 1 / aspect])).round()
    fits = (extents < jnp.array([[height], [width]])).all(axis=0)
    extent = extents[:, jnp.argmax(fits)].astype(jnp.int32)
    chance, *place = jax.random.uniform(place_key, (3,))
    top, left = (jnp.stack(place) * (jnp.array([height, width]) - extent + 1)).astype(jnp.int32)
    used = (chance < probability) & fits.any()
    noise = jax.random.bits(noise_key, image.shape, jnp.uint8).astype(image.dtype)
    erased = used & rectangle(top, left, *extent, (height, width))  # type: ignore[call-arg]
    return jnp.where(erased, noise, image)


def cutout(key: jax.Array, image: jax.Array, *, side: int) -> jax.Array:
    """Set a square to 0, centred on a random pixel and clipped at the image's edges.

    From DeVries and Taylor, arXiv 1708.04552; for images after normalisation, where 0 is the mean.
    """
    height, width, _ = image.shape
    centre = jax.random.randint(key, (2,), 0, jnp.array([height, width]))
    top, left = centre - side // 2
    return jnp.where(rectangle(top, left, side, side, (height, width)), 0, image)


def rectangle(
    top: jax.Array, left: jax.Array, height: jax.Array, width: jax.Array, size: tuple[int, int]
) -> jax.Array:
    """Return which pixels of an image of (height, width) `size` lie in a box: bool [H, W, 1]."""
    y, x = jnp.indices(size, sparse=True)
    rows = (y >= top) & (y < top + height)
    columns = (x >= left) & (x < left + width)
    return (rows & columns)[..., None]
