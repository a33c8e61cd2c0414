"""Linear filters of images, as matrices that are made once on the host.

A filter along an axis of n pixels is a matrix [n, n], whose columns are the filtered unit vectors:
no boundary needs code of its own on the devices. Images are float [H, W, C].
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from scipy import ndimage

_EXACT = jax.lax.Precision.HIGHEST  # a TPU would round the factors to bfloat16


def separable(rows: np.ndarray, columns: np.ndarray, image: jax.Array) -> jax.Array:
    """Apply matrices [h, H] and [w, W] along the height and the width: [h, w, C]."""
    image = jnp.einsum("hi,ijc->hjc", jnp.float32(rows), image, precision=_EXACT)
    return jnp.einsum("wj,hjc->hwc", jnp.float32(columns), image, precision=_EXACT)


def gaussian(size: int, sigma: float, mode: str = "nearest", truncate: float = 4) -> np.ndarray:
    """Return SciPy's Gaussian filter, [size, size]; `mode` is SciPy's name of the boundary."""
    unit = np.eye(size)
    if not sigma:
        return unit
    return ndimage.gaussian_filter1d(unit, sigma, axis=0, mode=mode, truncate=truncate)


def gaussian_blur(image: jax.Array, sigma: float) -> jax.Array:
    """Blur both axes, as scikit-image's `gaussian`."""
    rows, columns = (gaussian(size, sigma) for size in image.shape[:2])
    return separable(rows, columns, image)


def zoom(size: int, factor: float) -> np.ndarray:
    """Return the linear enlargement of an axis by a factor, cut to its middle, [size, size]."""
    kept = math.ceil(size / factor)
    first = (size - kept) // 2
    enlarged = ndimage.zoom(np.eye(kept), (factor, 1), order=1)
    trimmed = (len(enlarged) - size) // 2
    matrix = np.zeros((size, size))
    matrix[:, first : first + kept] = enlarged[trimmed : trimmed + size]
    return matrix


def box_resize(size: int, new: int) -> np.ndarray:
    """Return PIL's resizing of an axis with the filter BOX, [new, size]."""
    unit = Image.fromarray(np.eye(size, dtype=np.float32))
    return np.asarray(unit.resize((new, size), Image.Resampling.BOX)).T


def disk(radius: float, sigma: float) -> np.ndarray:
    """Return a disk with a smoothed edge, without empty borders: [K, K], K odd."""
    reach = 8 if radius <= 8 else int(radius)
    places = np.arange(-reach, reach + 1)
    kernel = np.float64(places[:, None] ** 2 + places**2 <= radius**2)
    kernel /= kernel.sum()
    taps = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    edge = np.exp(-(taps**2) / (2 * sigma**2))
    for axis in (0, 1):  # mirror: OpenCV's default boundary
        kernel = ndimage.correlate1d(kernel, edge / edge.sum(), axis, mode="mirror")
    empty = int(np.argmax(kernel.max(axis=0) > 1e-12))
    return kernel[empty : len(kernel) - empty, empty : len(kernel) - empty]


def levels(image: jax.Array) -> jax.Array:
    """Return the whole levels 0..255 of values 0..1, rounded down."""
    # float32 puts some products a little below the whole number that they are in float64.
    return jnp.floor(255 * image + 1 / 8192)


def correlate(image: jax.Array, kernel: np.ndarray) -> jax.Array:
    """Correlate each channel with a kernel [K, K], K odd; the border is mirrored."""
    margin = len(kernel) // 2
    padded = jnp.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    planes = jnp.moveaxis(padded, -1, 0)[:, None]
    weights = jnp.float32(kernel)[None, None]
    found = jax.lax.conv_general_dilated(planes, weights, (1, 1), "VALID", precision=_EXACT)
    return jnp.moveaxis(found[:, 0], 0, -1)


def motion_blur(image: jax.Array, angle: jax.Array, radius: float, sigma: float) -> jax.Array:
    """Smear an image along an angle in degrees, as ImageMagick's `MotionBlurImage`.

    A pixel becomes the mean of the pixels that follow it along the angle, weighted by half a
    Gaussian. A pixel outside of the image has the value of the nearest one inside.
    """
    width = 2 * math.ceil(radius) + 1
    places = np.arange(width)
    weights = np.exp(-(places**2) / (2 * sigma**2))
    weights = jnp.float32(weights / weights.sum())
    angle = jnp.deg2rad(angle)
    right, down = (jnp.ceil(places * f(angle) - 0.5).astype(jnp.int32) for f in (jnp.cos, jnp.sin))
    height, columns = image.shape[:2]

    def add(total: jax.Array, tap: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        weight, dy, dx = tap
        y = jnp.clip(jnp.arange(height) + dy, 0, height - 1)
        x = jnp.clip(jnp.arange(columns) + dx, 0, columns - 1)
        return total + weight * image[y[:, None], x], None

    return jax.lax.scan(add, jnp.zeros_like(image), (weights, down, right))[0]
