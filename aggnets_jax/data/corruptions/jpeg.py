"""JPEG compression and decompression of an image, without the lossless part between them.

The steps are the ones of libjpeg, which PIL calls: ITU-T T.81 with the tables of its Annex K,
chroma at half the resolution, and linear interpolation of the decoded chroma. All of it is in whole
numbers, as there, so the result is PIL's to the bit.
"""

import jax
import jax.numpy as jnp
import numpy as np

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

# The cosine transform of eight values times sqrt(8) 2^13, as in libjpeg's accurate transform (after
# Loeffler, Ligtenberg and Moschytz, 1989): sums of constants of 13 bits, by frequency and place.
_HALF = np.array(
    [
        [8192, 8192, 8192, 8192],
        [11363, 9633, 6437, 2260],
        [10703, 4433, -4433, -10703],
        [9633, -2259, -11362, -6436],
        [8192, -8192, -8192, 8192],
        [6437, -11362, 2261, 9633],
        [4433, -10704, 10704, -4433],
        [2260, -6436, 9633, -11363],
    ]
)
_SIGNS = np.where(np.arange(8) % 2, -1, 1)[:, None]  # odd frequencies are odd functions
_DCT = np.concatenate([_HALF, _SIGNS * _HALF[:, ::-1]], axis=1)

# Colours, in fractions of 16 bits: luminance and two differences (JFIF 1.02), and back.
_TO_YCC = np.array([[19595, 38470, 7471], [-11059, -21709, 32768], [32768, -27439, -5329]])
_FROM_YCC = np.array([[65536, 0, 91881], [65536, -22554, -46802], [65536, 116130, 0]])
_MIDDLE = np.array([0, 128, 128])


def jpeg_compression(key: jax.Array, image: jax.Array, quality: int) -> jax.Array:
    """Compress and decompress an image, float [H, W, C] in 0..1, C 1 or 3; quality is 1 to 100."""
    del key
    levels = jnp.round(255 * image).astype(jnp.int32)
    if image.shape[-1] == 1:
        return _plane(levels[..., 0], _steps(_LUMINANCE, quality))[..., None] / 255
    # Halves of the differences are rounded down.
    planes = _descale(jnp.einsum("dc,hwc->hwd", _TO_YCC, levels) - (_MIDDLE > 0), 16) + _MIDDLE
    luma = _plane(planes[..., 0], _steps(_LUMINANCE, quality))
    chroma = [
        _enlarge(_plane(_halve(planes[..., c]), _steps(_CHROMINANCE, quality)), image.shape)
        for c in (1, 2)
    ]
    planes = jnp.stack([luma, *chroma], axis=-1) - _MIDDLE
    return jnp.clip(_descale(jnp.einsum("dc,hwc->hwd", _FROM_YCC, planes), 16), 0, 255) / 255


def _descale(values: jax.Array, bits: int) -> jax.Array:
    """Divide whole numbers by a power of two, and round; halves are rounded up."""
    return (values + (1 << (bits - 1))) >> bits


def _steps(table: np.ndarray, quality: int) -> np.ndarray:
    """Return the steps of a table at a quality of 1 to 100, as libjpeg scales them."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((table * scale + 50) // 100, 1, 255)


def _plane(plane: jax.Array, steps: np.ndarray) -> jax.Array:
    """Transform, quantise and transform back one plane of levels, int32 [H, W]."""
    height, width = plane.shape
    padded = jnp.pad(plane, ((0, -height % 8), (0, -width % 8)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // 8, 8, -1, 8) - 128
    steps = steps[:, None].astype(np.int32)
    # Between the passes, values have two more bits; coefficients are eight times as large.
    found = _descale(jnp.einsum("vj,aibj->aibv", _DCT, blocks), 11)
    found = _descale(jnp.einsum("ui,aibv->aubv", _DCT, found), 15)
    found = jnp.sign(found) * ((jnp.abs(found) + 4 * steps) // (8 * steps)) * steps
    found = _descale(jnp.einsum("ui,aubv->aibv", _DCT, found), 11)
    blocks = _descale(jnp.einsum("vj,aibv->aibj", _DCT, found), 18)
    return jnp.clip(blocks + 128, 0, 255).reshape(padded.shape)[:height, :width]


def _halve(plane: jax.Array) -> jax.Array:
    """Return the means of squares of four pixels, rounded up and down in turn."""
    height, width = plane.shape
    # libjpeg fills the columns of the last blocks before the means, and the rows after them.
    plane = jnp.pad(plane, ((0, height % 2), (0, -width % 16)), mode="edge")
    sums = plane.reshape(plane.shape[0] // 2, 2, -1, 2).sum(axis=(1, 3))
    return (sums + 1 + jnp.arange(sums.shape[1]) % 2) // 4


def _enlarge(plane: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Double a plane by linear interpolation to an image's height and width."""
    height, width = shape[:2]
    plane = plane[:, : -(-width // 2)]
    if width <= 4:  # as libjpeg
        return plane.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    rows = jnp.pad(plane, ((1, 1), (0, 0)), mode="edge")
    rows = jnp.stack([3 * plane + rows[:-2], 3 * plane + rows[2:]], axis=1)
    rows = rows.reshape(-1, plane.shape[1])
    columns = jnp.pad(rows, ((0, 0), (1, 1)), mode="edge")
    left, right = 3 * rows + columns[:, :-2] + 8, 3 * rows + columns[:, 2:] + 7
    both = jnp.stack([left, right], axis=2) // 16
    return both.reshape(len(rows), -1)[:height, :width]
