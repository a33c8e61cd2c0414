"""Units of a layer, and the labels of images with which their activations agree.

Bau, Zhou et al., arXiv 1704.05796, Section 2.2; `dissection.py` has the equations. All images pass
through the network twice: for the thresholds of units, then for the overlap of masks and labels.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from aggnets_jax.analysis.broden import Batch, Broden
from aggnets_jax.errors import UserError
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.runtime.compilation import compiler_options

QUANTILE = 994 / 999
DETECTOR = 0.04

Features = Callable[[jax.Array], jax.Array]
"""Function from images uint8 [B, height, width, 3] to activations float [B, h, w, U]."""


class Tally(NamedTuple):
    """Numbers of pixels over all images.

    Attributes:
      unit: in a unit's mask, int64 [U].
      both: in a unit's mask and with a label, int64 [U, L].
      unit_category: in a unit's mask, in images where the mask meets a label of the category, or
        that have such a label as a whole, int64 [U, categories]. A label is of its primary
        category, wherever it is drawn.
      label: with a label, int64 [L].
    """

    unit: np.ndarray
    both: np.ndarray
    unit_category: np.ndarray
    label: np.ndarray


class Dissection(NamedTuple):
    """Labels that the units of a layer detect.

    Attributes:
      thresholds: float [U].
      iou: float64 [U, L], by unit and number of the label; 0 for labels of no chosen category.
      labels: the label of each unit, int [U]; 0 for a unit whose mask meets no label.
      scores: its IoU, float64 [U].
      top: images with the largest activations of each unit, the largest first, int [U, at most 10].
      tally: the counts from which `iou` is computed.
    """

    thresholds: np.ndarray
    iou: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    top: np.ndarray
    tally: Tally


def dissect(
    features: Features, broden: Broden, mesh: Mesh, *, batch_size: int, quantile: float = QUANTILE
) -> Dissection:
    """Dissect a layer; all images pass through the network twice.

    Args:
      features: traceable; computes the layer.
      broden: images and labels.
      mesh: devices, over which batches are divided.
      batch_size: images at a time; must be divisible by the number of devices.
      quantile: of a unit's activations, in 0..1, above which it is on.

    Raises:
      UserError: if an activation is not finite.
    """
    thresholds, maxima = _thresholds(features, broden, mesh, batch_size, quantile)
    tally = _tally(features, broden, mesh, batch_size, thresholds)
    iou = intersection_over_union(tally, broden.primary)
    labels = iou.argmax(axis=1)
    top = np.argsort(-maxima, axis=0, kind="stable")[:10].T
    return Dissection(thresholds, iou, labels, iou.max(axis=1), top, tally)


def _thresholds(
    features: Features, broden: Broden, mesh: Mesh, batch_size: int, quantile: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the threshold of each unit [U], and its largest activation in each image [N, U]."""
    shape = jax.eval_shape(features, broden.read([0]).images).shape
    positions = len(broden.rows) * shape[1] * shape[2]
    # Hazen's place among the sorted values, 0-based; only the values from there on are kept.
    place = np.clip(positions * quantile - 0.5, 0, positions - 1)
    kept = positions - int(place)

    @functools.partial(jax.jit, compiler_options=compiler_options())
    def add(largest: jax.Array, images: jax.Array, real: jax.Array) -> tuple[jax.Array, jax.Array]:
        activations = _without_padding(features(images), real)
        by_unit = activations.reshape(-1, activations.shape[-1]).T
        largest, _ = jax.lax.top_k(jnp.concatenate([largest, by_unit], axis=1), kept)
        return largest, activations.max(axis=(1, 2))

    sharding = mesh_lib.batch_sharding(mesh)
    largest, maxima = jnp.full((shape[-1], kept), -jnp.inf), []
    for batch, real in _padded_batches(broden, batch_size):
        largest, most = add(largest, *jax.device_put((batch.images, real), sharding))
        maxima.append(np.asarray(most)[real])
        if not np.isfinite(maxima[-1]).all():
            raise UserError("the layer has activations that are not finite")
    upper = np.asarray(largest, np.float64)[:, ::-1]  # from `place` on, ascending
    part = place - int(place)
    beside = min(1, kept - 1)
    thresholds = (1 - part) * upper[:, 0] + part * upper[:, beside]
    return thresholds, np.concatenate(maxima)


def _tally(
    features: Features, broden: Broden, mesh: Mesh, batch_size: int, thresholds: np.ndarray
) -> Tally:
    categories, count = len(broden.categories), len(broden.names)
    category_of = jax.nn.one_hot(broden.primary, categories)  # zeros for labels of none

    def tally_image(
        activations: jax.Array, maps: jax.Array, whole: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        mask = unit_masks(activations, thresholds, maps.shape[1:])
        pixels = mask.sum(axis=(0, 1), dtype=jnp.int32)
        ones = mask.astype(jnp.float32)
        # An image has few of all labels.
        here = (maps[..., None] == labels).sum(axis=0, dtype=jnp.float32)
        under = jnp.einsum("hwu,hwl->ul", ones, here).astype(jnp.int32)
        both = jnp.zeros((len(pixels), count), jnp.int32).at[:, labels].add(under)
        both = both.at[:, whole].add(pixels[:, None])
        met = (under > 0).astype(jnp.float32) @ category_of[labels] > 0
        met |= category_of[whole].sum(axis=0) > 0
        return pixels, both, pixels[:, None] * met

    def tally_part(
        images: jax.Array, real: jax.Array, *labels: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        inputs = (_without_padding(features(images), real), *labels)
        shapes = jax.eval_shape(tally_image, *(x[0] for x in inputs))
        zeros = tuple(jnp.zeros(x.shape, x.dtype) for x in shapes)

        def add(total: Any, image: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, tally_image(*image)), None

        return jax.lax.psum(jax.lax.scan(add, zeros, inputs)[0], "data")

    divided = PartitionSpec("data")
    mapped = jax.shard_map(
        tally_part, mesh=mesh, in_specs=divided, out_specs=PartitionSpec(), check_vma=False
    )
    step = jax.jit(mapped, compiler_options=compiler_options())
    sums: list[np.ndarray] | None = None
    label = np.zeros(count, np.int64)
    for batch, real in _padded_batches(broden, batch_size):
        label += np.bincount(batch.maps.ravel(), minlength=count)
        pixels = batch.maps.shape[2] * batch.maps.shape[3]
        label += np.bincount(batch.whole.ravel(), minlength=count) * pixels
        labels = (batch.maps, batch.whole, _labels_of_each(batch.maps))
        found = [np.asarray(x, np.int64) for x in step(batch.images, real, *labels)]
        sums = found if sums is None else [a + b for a, b in zip(sums, found, strict=True)]
    unit, both, unit_category = sums
    label[0] = both[:, 0] = 0
    return Tally(unit, both, unit_category, label)


def unit_masks(activations: jax.Array, thresholds: np.ndarray, size: tuple[int, int]) -> jax.Array:
    """Return where an image's units are on, bool [height, width, U].

    Args:
      activations: float [h, w, U].
      thresholds: float [U].
      size: height and width of the mask.
    """
    resized = jax.image.resize(activations, (*size, activations.shape[-1]), "bilinear")
    on = activations.max(axis=(0, 1)) > thresholds  # resizing may round up
    return (resized > thresholds) & on


def _padded_batches(broden: Broden, batch_size: int) -> Iterator[tuple[Batch, np.ndarray]]:
    """Yield batches of equal size, filled up with black images, and the mask of the real ones."""
    for batch in broden.batches(batch_size):
        missing = batch_size - len(batch.images)
        filled = [np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)) for x in batch]
        yield Batch(*filled), np.arange(batch_size) < len(batch.images)


def _without_padding(activations: jax.Array, real: jax.Array) -> jax.Array:
    return jnp.where(real[:, None, None, None], activations.astype(jnp.float32), -jnp.inf)


def _labels_of_each(maps: np.ndarray) -> np.ndarray:
    """Return the labels in each image's maps, int32 [B, P], filled up with 0."""
    found = [np.unique(image) for image in maps]
    # Few sizes, so that few programs are compiled.
    size = 1 << max(map(len, found)).bit_length()
    return np.stack([np.pad(labels, (0, size - len(labels))) for labels in found])


def intersection_over_union(tally: Tally, primary: np.ndarray) -> np.ndarray:
    """Return the IoU of each unit with each label, float64 [U, L].

    `primary` is the number of each label's category, -1 for none. The union of a unit and a label
    counts the unit's pixels in images where its mask meets a label of the label's category, or that
    have one as a whole.
    """
    union = tally.unit_category[:, primary] + tally.label - tally.both
    known = (primary >= 0) & (tally.label > 0)
    return np.where(known, tally.both / np.maximum(union, 1), 0.0)


def unique_detectors(found: Dissection, broden: Broden, least: float = DETECTOR) -> dict[str, int]:
    """Count the different labels of units with an IoU of at least `least`, by category."""
    labels = np.unique(found.labels[found.scores >= least])
    counts = np.bincount(broden.primary[labels], minlength=len(broden.categories))
    return dict(zip(broden.categories, counts.tolist(), strict=True))
