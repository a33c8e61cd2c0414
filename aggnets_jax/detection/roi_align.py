"""RoIAlign, and the level of the pyramid that a RoI reads.

Source: He et al., "Mask R-CNN", arXiv 1703.06870, Section 3; levels: Lin et al., arXiv 1612.03144,
eq. 1. A RoI is divided into size x size bins, each the mean of bilinear samples at ratio x ratio
points. A sample further than one cell outside the map is 0; other samples outside are taken at the
nearest point of the map.

Bilinear samples are separable, and so are their means. The bins of a RoI are therefore

    bins = A_y features A_x^T

with two matrices of interpolation weights, [size, height] and [size, width]. The gradient of the
method "matrices" has no scatter, so that it is the same on every run. The method costs size *
height * width * channels multiply-adds for each RoI and level. The method "gather" reads the four
corners of each sample instead. The methods differ only by rounding.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from aggnets_jax.detection.conventions import Conventions
from aggnets_jax.errors import unknown

METHODS = ("gather", "matrices")


def level_of(
    rois: jax.Array, levels: int, conventions: Conventions, *, finest: float = 56.0
) -> jax.Array:
    """Return the level 0, ..., levels - 1 of RoIs [..., 4], int32 [...].

    It is floor(log2(sqrt(width * height) / finest)), eq. 1 of the paper; RoIs at a limit belong to
    the coarser level.

    Args:
      rois: boxes in pixels.
      levels: number of levels.
      conventions: see `Conventions`.
      finest: side in pixels at which level 0 begins, and level 1 at twice as many; smaller RoIs
        have level 0, too.
    """
    width, height = conventions.sides(rois)
    side = jnp.sqrt(jnp.maximum(width * height, 0)) / finest
    if conventions.level_epsilon_inside:
        level = jnp.floor(jnp.log2(side + 1e-6))
    else:
        # In the order of torchvision, 4 + log2(side / 224), whose rounding decides at the limits.
        level = jnp.floor(4 + jnp.log2(side / 4) + 1e-6) - 2
    return jnp.clip(level, 0, levels - 1).astype(jnp.int32)


def _bins(
    start: jax.Array, end: jax.Array, scale: jax.Array | float, conventions: Conventions
) -> tuple[jax.Array, jax.Array]:
    """Return the starts and lengths of RoIs along one axis, in cells of a map."""
    first = start * scale - conventions.roi_shift
    last = (end + conventions.extent) * scale - conventions.roi_shift
    length = last - first
    # Implementations with a shift allow RoIs of any length; the others have a least length.
    return first, length if conventions.roi_shift else jnp.maximum(length, conventions.roi_least)


def _samples(
    first: jax.Array, length: jax.Array, size: int, ratio: int, bound: int
) -> tuple[jax.Array, jax.Array]:
    """Return the coordinates of samples and their weights, both [rois, size, points].

    Args:
      first: start of each RoI in cells [rois].
      length: length in cells [rois].
      size: number of bins.
      ratio: points of a bin; 0: as many as a bin has cells, rounded up.
      bound: most points of a bin if the ratio is 0.
    """
    bin_length = length[:, None, None] / size
    points = jnp.arange(ratio or bound)
    number = jnp.full_like(bin_length, ratio)
    if not ratio:
        number = jnp.clip(jnp.ceil(bin_length), 0, bound)
    bins = jnp.arange(size)[:, None]
    within = (points + 0.5) * bin_length / jnp.maximum(number, 1)
    weights = jnp.where(points < number, 1 / jnp.maximum(number, 1), 0)
    position = first[:, None, None] + bins * bin_length + within
    return position, jnp.broadcast_to(weights, position.shape)


def _matrix(position: jax.Array, weights: jax.Array, extent: int) -> jax.Array:
    """Return the weights of a map's cells in each bin: [rois, size, points] -> [..., extent]."""
    weights = jnp.where((position >= -1) & (position <= extent), weights, 0)
    position = jnp.clip(position, 0, extent - 1)
    cells = jnp.arange(extent)

    def add(total: jax.Array, sample: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        where, weight = sample
        hat = jnp.maximum(0, 1 - jnp.abs(where[..., None] - cells))
        return total + weight[..., None] * hat, None

    start = jnp.zeros((*position.shape[:-1], extent), position.dtype)
    samples = (jnp.moveaxis(position, -1, 0), jnp.moveaxis(weights, -1, 0))
    return jax.lax.scan(add, start, samples)[0]


def roi_align(
    features: jax.Array,
    rois: jax.Array,
    size: int,
    scale: float,
    conventions: Conventions,
    *,
    ratio: int | None = None,
    bound: int | None = None,
) -> jax.Array:
    """Pool RoIs from one map by interpolation matrices.

    Args:
      features: map of one image [height, width, channels].
      rois: boxes in pixels [rois, 4].
      size: bins of each side.
      scale: cells of the map for a pixel, such as 1/4.
      conventions: see `Conventions`.
      ratio: points of a bin along a side; 0: adaptive; None: the conventions'.
      bound: most points of a bin along a side if adaptive; None: enough for RoIs up to the size of
        the map.

    Returns:
      [rois, size, size, channels].
    """
    height, width = features.shape[:2]
    rows, columns = roi_matrices(
        rois, (height, width), size, scale, conventions, ratio=ratio, bound=bound
    )
    return jnp.einsum("rih,hwc,rjw->rijc", rows, features, columns)


def roi_matrices(
    rois: jax.Array,
    map_size: Sequence[int],
    size: int,
    scale: float,
    conventions: Conventions,
    *,
    ratio: int | None = None,
    bound: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return the interpolation matrices [rois, size, height] and [rois, size, width]."""
    ratio = conventions.sampling_ratio if ratio is None else ratio
    matrices = []
    for extent, first, last in zip(map_size, (1, 0), (3, 2), strict=True):
        most = math.ceil((extent + scale) / size) if bound is None else bound
        start, length = _bins(rois[:, first], rois[:, last], scale, conventions)
        matrices.append(_matrix(*_samples(start, length, size, ratio, most), extent))
    return matrices[0], matrices[1]


def pool(
    levels: Sequence[jax.Array],
    strides: Sequence[int],
    rois: jax.Array,
    size: int,
    conventions: Conventions,
    *,
    finest: float = 56.0,
    method: str = "gather",
) -> jax.Array:
    """Pool each RoI of an image from its level of the pyramid.

    An adaptive sampling ratio has no static shape, so 2 takes its place here.

    Args:
      levels: maps of one image [height, width, channels].
      strides: their strides in pixels.
      rois: boxes in pixels [rois, 4].
      size: bins of each side.
      conventions: see `Conventions`.
      finest: see `level_of`.
      method: "gather" or "matrices", see the top of this file.

    Returns:
      [rois, size, size, channels] in the dtype of the maps; coordinates are in the RoIs' dtype.
    """
    if method not in METHODS:
        raise unknown("method of RoIAlign", method, METHODS)
    level = level_of(rois, len(levels), conventions, finest=finest)
    ratio = conventions.sampling_ratio or 2
    if method == "gather":
        return _gather(levels, strides, rois, level, size, ratio, conventions)
    pooled = 0
    for i, (features, stride) in enumerate(zip(levels, strides, strict=True)):
        rows, columns = roi_matrices(
            rois, features.shape[:2], size, 1 / stride, conventions, ratio=ratio
        )
        rows = jnp.where((level == i)[:, None, None], rows, 0)
        rows, columns = rows.astype(features.dtype), columns.astype(features.dtype)
        pooled += jnp.einsum("rih,hwc,rjw->rijc", rows, features, columns)
    return pooled


def _gather(
    levels: Sequence[jax.Array],
    strides: Sequence[int],
    rois: jax.Array,
    level: jax.Array,
    size: int,
    ratio: int,
    conventions: Conventions,
) -> jax.Array:
    """Pool as `pool` does, from the maps' cells as rows [cells, channels] one below the other."""
    channels, dtype = levels[0].shape[-1], levels[0].dtype
    cells = jnp.concatenate([features.reshape(-1, channels) for features in levels])
    heights, widths = (jnp.array([f.shape[axis] for f in levels])[level] for axis in (0, 1))
    areas = [features.shape[0] * features.shape[1] for features in levels]
    offsets = jnp.array([sum(areas[:i]) for i in range(len(areas))])[level]
    scale = (1 / jnp.array(strides, rois.dtype))[level]
    axes = []
    for extent, first, last in ((heights, 1, 3), (widths, 0, 2)):
        start, length = _bins(rois[:, first], rois[:, last], scale, conventions)
        position, weights = _samples(start, length, size, ratio, ratio)
        axes.append(_corners(position, weights, extent[:, None, None]))
    (y_cells, y_weights), (x_cells, x_weights) = axes
    total = jnp.zeros((len(rois), size, size, channels), dtype)
    for i in range(y_cells.shape[-1]):
        for j in range(x_cells.shape[-1]):
            row = offsets[:, None, None] + y_cells[:, :, None, i] * widths[:, None, None]
            weight = y_weights[:, :, None, i] * x_weights[:, None, :, j]
            index = row + x_cells[:, None, :, j]
            total += weight[..., None].astype(dtype) * cells[index]
    return total


def _corners(
    position: jax.Array, weights: jax.Array, extent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return cells and weights [rois, size, 2 points] of the two neighbours of each sample."""
    weights = jnp.where((position >= -1) & (position <= extent), weights, 0)
    position = jnp.clip(position, 0, extent - 1)
    low = jnp.floor(position).astype(jnp.int32)
    high = jnp.minimum(low + 1, extent - 1)
    part = position - low
    return (
        jnp.concatenate([low, high], axis=-1),
        jnp.concatenate([weights * (1 - part), weights * part], axis=-1),
    )
