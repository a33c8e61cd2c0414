"""JPEG compression and decompression of an image, without the lossless part between them.

The steps are the ones of libjpeg, which PIL calls: ITU-T T.81 with the tables of its Annex K,
chroma at half the resolution, and linear interpolation of the decoded chroma.
"""

import jax
import jax.numpy as jnp
import numpy as np

_EXACT = jax.lax.Precision.HIGHEST

# Steps of quantisation at quality 50 (Annex K.1), by vertical and horizontal frequency.
_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMINANCE = np.full((8, 8), 99)
_CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

# The discrete cosine transform of eight values, orthonormal.
_FREQUENCY, _PLACE = np.indices((8, 8))
_DCT = np.cos((2 * _PLACE + 1) * _FREQUENCY * np.pi / 16) * np.where(_FREQUENCY, 0.5, 0.125**0.5)

_TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]]
)
_FROM_YCC = np.array([[1, 0, 1.402], [1, -0.344136286, -0.714136286], [1, 1.772, 0]])
_MIDDLE = np.array([0, 128, 128])


def jpeg_compression(key: jax.Array, image: jax.Array, quality: int) -> jax.Array:
    """Compress and decompress an image, float [H, W, C] in 0..1, C 1 or 3; quality is 1 to 100."""
    del key
    levels = jnp.round(255 * image)
    if image.shape[-1] == 1:
        return _plane(levels[..., 0], _steps(_LUMINANCE, quality))[..., None] / 255
    planes = _round(_colours(_TO_YCC, levels) + _MIDDLE)
    luma = _plane(planes[..., 0], _steps(_LUMINANCE, quality))
    chroma = [
        _enlarge(_plane(_halve(planes[..., c]), _steps(_CHROMINANCE, quality)), image.shape)
        for c in (1, 2)
    ]
    decoded = _colours(_FROM_YCC, jnp.stack([luma, *chroma], axis=-1) - _MIDDLE)
    return jnp.clip(_round(decoded), 0, 255) / 255


def _round(values: jax.Array) -> jax.Array:
    return jnp.floor(values + 0.5)


def _colours(matrix: np.ndarray, image: jax.Array) -> jax.Array:
    return jnp.einsum("dc,hwc->hwd", jnp.float32(matrix), image, precision=_EXACT)


def _steps(table: np.ndarray, quality: int) -> np.ndarray:
    """Return the steps of a table at a quality of 1 to 100, as libjpeg scales them."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((table * scale + 50) // 100, 1, 255)


def _plane(plane: jax.Array, steps: np.ndarray) -> jax.Array:
    """Transform, quantise and transform back one plane of levels, [H, W]."""
    height, width = plane.shape
    padded = jnp.pad(plane, ((0, -height % 8), (0, -width % 8)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // 8, 8, -1, 8) - 128
    dct = jnp.float32(_DCT)
    found = jnp.einsum("ui,aibj,vj->aubv", dct, blocks, dct, precision=_EXACT)
    steps = jnp.float32(steps)[:, None]
    found = jnp.sign(found) * jnp.floor(jnp.abs(found) / steps + 0.5) * steps
    blocks = jnp.einsum("ui,aubv,vj->aibj", dct, found, dct, precision=_EXACT)
    return jnp.clip(_round(blocks + 128), 0, 255).reshape(padded.shape)[:height, :width]


def _halve(plane: jax.Array) -> jax.Array:
    """Return the means of squares of four pixels, rounded up and down in turn."""
    height, width = plane.shape
    # libjpeg fills the columns of the last blocks before the means, and the rows after them.
    plane = jnp.pad(plane, ((0, height % 2), (0, -width % 16)), mode="edge")
    sums = plane.reshape(plane.shape[0] // 2, 2, -1, 2).sum(axis=(1, 3))
    return jnp.floor((sums + 1 + jnp.arange(sums.shape[1]) % 2) / 4)


def _enlarge(plane: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Double a plane by linear interpolation to an image's height and width."""
    height, width = shape[:2]
    plane = plane[:, : -(-width // 2)]
    rows = jnp.pad(plane, ((1, 1), (0, 0)), mode="edge")
    rows = jnp.stack([3 * plane + rows[:-2], 3 * plane + rows[2:]], axis=1)
    rows = rows.reshape(-1, plane.shape[1])
    columns = jnp.pad(rows, ((0, 0), (1, 1)), mode="edge")
    left, right = 3 * rows + columns[:, :-2] + 8, 3 * rows + columns[:, 2:] + 7
    both = jnp.floor(jnp.stack([left, right], axis=2) / 16)
    return both.reshape(len(rows), -1)[:height, :width]
