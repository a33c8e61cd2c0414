"""PIL's operations on the pixels of one image, uint8 [H, W, C], C 1 or 3.

Each function covers several functions of PIL, selected by an array argument. One program without
branches therefore serves a batch in which each image gets another operation.
"""

import jax
import jax.numpy as jnp
import numpy as np

# Qualities that `enhance` changes.
UNCHANGED, BRIGHTNESS, CONTRAST, COLOR, SHARPNESS = range(5)

# Sources of the table of `remap`.
GIVEN, AUTOCONTRAST, EQUALIZE = range(3)

# Fractions are whole multiples of 1 / UNIT, as PIL's coordinates are, so that all programs round
# alike.
UNIT = 1 << 16


def fixed_point(matrix: tuple[float, ...]) -> np.ndarray:
    """Return the matrix of `affine` for a matrix of PIL's `Image.transform`: int32 [6].

    With (a, b, c, d, e, f) the pixel centred at (x, y) takes the value of the input at
    (a x + b y + c, d x + e y + f).
    """
    a, b, c, d, e, f = matrix
    from_corner = (a, b, c + a / 2 + b / 2, d, e, f + d / 2 + e / 2)
    return np.floor(np.multiply(from_corner, UNIT) + 0.5).astype(np.int32)


def affine(image: jax.Array, matrix: jax.Array) -> jax.Array:
    """Apply `Image.transform` with `Transform.AFFINE`, nearest pixels and black outside.

    The matrix, int32 [6], is from `fixed_point`.
    """
    height, width, _ = image.shape
    y, x = jnp.indices((height, width), dtype=jnp.int32, sparse=True)
    a, b, c, d, e, f = matrix
    columns = (a * x + b * y + c) >> 16
    rows = (d * x + e * y + f) >> 16
    # Negative places would count from the end.
    inside = (rows >= 0) & (columns >= 0)
    rows, columns = jnp.where(inside, rows, height), jnp.where(inside, columns, width)
    return image.at[rows, columns].get(mode="fill", fill_value=0)


def remap(image: jax.Array, table: jax.Array, source: jax.Array) -> jax.Array:
    """Replace the levels of every channel with a table.

    The source GIVEN uses the table, uint8 [256]. AUTOCONTRAST and EQUALIZE are `ImageOps`'
    functions, which compute a table from the histogram of each channel.
    """
    channels = image.shape[-1]
    counts = jnp.zeros((channels, 256), jnp.int32).at[jnp.arange(channels), image].add(1)
    last = 255 - jnp.argmax(counts[:, ::-1] > 0, axis=1, keepdims=True)
    tables = jax.lax.select_n(
        source,
        jnp.broadcast_to(table.astype(jnp.int32), (channels, 256)),
        _autocontrast(counts, last),
        _equalize(counts, last),
    ).astype(jnp.uint8)
    # The barrier stops XLA from recomputing the entries at every pixel that looks them up.
    return jax.lax.optimization_barrier(tables)[jnp.arange(channels), image]


def _autocontrast(counts: jax.Array, last: jax.Array) -> jax.Array:
    """Return the tables that stretch the occurring levels over all levels: int32 [C, 256]."""
    first = jnp.argmax(counts > 0, axis=1, keepdims=True)
    levels = jnp.arange(256)
    stretched = (levels - first) * 255 // jnp.maximum(last - first, 1)
    return jnp.where(last > first, jnp.clip(stretched, 0, 255), levels)


def _equalize(counts: jax.Array, last: jax.Array) -> jax.Array:
    """Return the tables that make all levels about equally frequent: int32 [C, 256]."""
    below = jnp.cumsum(counts, axis=1) - counts
    step = jnp.take_along_axis(below, last, axis=1) // 255
    equalized = (step // 2 + below) // jnp.maximum(step, 1)
    return jnp.where(step > 0, jnp.minimum(equalized, 255), jnp.arange(256))


def enhance(image: jax.Array, quality: jax.Array, factor: jax.Array) -> jax.Array:
    """Apply `ImageEnhance`: interpolate from an image without a quality to the image, or beyond.

    The quality is UNCHANGED, BRIGHTNESS, CONTRAST, COLOR or SHARPNESS. The factor, int32, is times
    UNIT; 0 removes the quality, UNIT changes nothing.
    """
    pixels = image.astype(jnp.int32)
    grey = _grey(pixels)
    mean = _rounded_mean(grey[..., 0])
    without = jax.lax.select_n(
        quality,
        pixels,
        jnp.zeros_like(pixels),
        jnp.broadcast_to(mean, pixels.shape),
        jnp.broadcast_to(grey, pixels.shape),
        _smooth(pixels),
    )
    # Truncated, as in PIL. The 256 makes up for rounded factors that end just below a whole number.
    blended = without + ((factor * (pixels - without) + 256) >> 16)
    return jnp.clip(blended, 0, 255).astype(jnp.uint8)


def _rounded_mean(grey: jax.Array) -> jax.Array:
    """Return the mean of int32 [H, W], in 0..255, rounded: int32 [].

    The sum of all may be too large for int32. The one of the rows' means, and the one of what they
    leave, are not.
    """
    height, width = grey.shape
    means, left = jnp.divmod(grey.sum(axis=1), width)
    mean, rows_left = jnp.divmod(means.sum(), height)
    left = width * rows_left + left.sum()
    return mean + (2 * left + grey.size) // (2 * grey.size)


def _grey(pixels: jax.Array) -> jax.Array:
    """Apply `Image.convert("L")`: int32 [H, W, 1]."""
    if pixels.shape[-1] == 1:
        return pixels
    weights = np.array([19595, 38470, 7471], np.int32)  # ITU-R 601, times 2^16
    return (pixels * weights).sum(axis=-1, keepdims=True) + (1 << 15) >> 16


def _smooth(pixels: jax.Array) -> jax.Array:
    """Apply `ImageFilter.SMOOTH`, which leaves the border unchanged: int32 [H, W, C]."""
    height, width, _ = pixels.shape
    if min(height, width) < 3:
        return pixels
    rows = pixels[:-2] + pixels[1:-1] + pixels[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * pixels[1:-1, 1:-1]
    return pixels.at[1:-1, 1:-1].set((2 * total + 13) // 26)
