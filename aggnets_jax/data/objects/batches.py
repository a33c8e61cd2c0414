"""Batches of images with objects on the devices, for training and for evaluation.

Threads read the images; each process reads the images of its rows. A training batch has one of a
few padded sizes, see `order`. An evaluation takes the images in groups of one padded size each.
"""

import collections
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import NamedSharding

from aggnets_jax.data.batches import StreamedData
from aggnets_jax.data.objects.annotations import Annotated
from aggnets_jax.data.objects.examples import (
    Example,
    Form,
    flipped,
    load_image,
    load_objects,
    no_image,
    no_objects,
)
from aggnets_jax.data.objects.order import BatchOrder
from aggnets_jax.data.record_order import BatchRows
from aggnets_jax.errors import UserError
from aggnets_jax.runtime.mesh import local_rows, place_rows
from aggnets_jax.runtime.notes import print_once

# Batches that are read before they are needed.
_AHEAD = 2


class TrainedImages:
    """The images of a split that are trained on, with their objects.

    Attributes:
      data: the split.
      index: places of the images in the split, int64 [N].
      most: largest number of objects in an image.
    """

    def __init__(self, data: Annotated, form: Form, *, empty: bool, least_side: int) -> None:
        objects = [len(data.trained(index)) for index in range(len(data.images))]
        chosen = [
            index
            for index, image in enumerate(data.images)
            if (empty or objects[index]) and min(image["height"], image["width"]) >= least_side
        ]
        crowds = sum(each["iscrowd"] for own in data.objects for each in own)
        told = f"{crowds} of {sum(map(len, data.objects))} are crowds (iscrowd: 1), as CVAT's masks"
        if not any(objects[index] for index in chosen):
            more = f": {told}" if crowds else ""
            raise UserError(f"{data.file} has no image with an object to be trained on{more}")
        if crowds > sum(objects):
            print_once(f"warning: few objects of {data.file} are trained: {told}")
        self.data = data
        self.index = np.array(chosen)
        self.most = max(objects[index] for index in chosen)
        self._form = form

    @cached_property
    def buckets(self) -> np.ndarray:
        """The bucket of each image, int64 [N]; raise `UserError` if an image fits into none."""
        return np.array([self._form.bucket(self.data.images[index]) for index in self.index])


class _Loader:
    """Images by place; those that are damaged are named once and skipped, or raise UserError."""

    def __init__(self, data: Annotated, form: Form, skip: bool) -> None:
        self.data, self.form, self.skip = data, form, skip
        self._named: set[int] = set()

    def image(self, index: int, size: Sequence[int]) -> Example:
        try:
            return load_image(self.data, index, self.form, size)
        except UserError as error:
            if not self.skip:
                raise
            if index not in self._named:
                self._named.add(index)
                print(f"skipped: {error}", file=sys.stderr, flush=True)
            return no_image(size)

    def trained(self, index: int, size: Sequence[int], most: int, flips: bool) -> Example:
        """Return an image with its objects, mirrored or not."""
        example = self.image(index, size)
        if example["size"].min() == 0:
            return {**example, **no_objects(self.form, size, most)}
        example |= load_objects(self.data, index, self.form, size, most)
        return flipped(example, self.form) if flips else example


def train_data(
    config: ml_collections.ConfigDict,
    images: TrainedImages,
    form: Form,
    *,
    seeds: int | np.ndarray,
    start_step: int = 0,
    most_steps: int = 1,
    sharding: NamedSharding,
) -> StreamedData:
    """Return the batches of a training split, with the interface of `data.train_data`.

    A batch has the arrays of `load_image` and `load_objects` with the batch as first axis, and
    "epoch", "index" (the place in the split) and "step", int32 [batch]. Image i of epoch e is
    mirrored or not, if `config.data.flip`, by (seed, e, i).
    """
    del most_steps
    if np.ndim(seeds):
        raise UserError(
            "images with objects are trained on with one seed at a time: set num_seeds=1"
        )
    rows = BatchRows(config.batch_size, local_rows(sharding, config.batch_size))
    order = BatchOrder(images.buckets, config.batch_size, int(seeds))
    loader = _Loader(images.data, form, config.data.damaged == "skip")

    def submit(pool: ThreadPoolExecutor, step: int) -> tuple[Example, list[Future[Example]]]:
        bucket, epochs, places = order.batch(step)
        epochs, index = epochs[rows.held], images.index[places[rows.held]]
        size = form.training_sizes[bucket]
        examples = []
        for epoch, i in zip(epochs.tolist(), index.tolist(), strict=True):
            draw = np.random.default_rng((int(seeds), epoch, i)).random()
            flips = config.data.flip and draw < 0.5
            examples.append(pool.submit(loader.trained, i, size, images.most, flips))
        numbers = {"epoch": epochs, "index": index, "step": np.full(len(index), step)}
        return {name: np.asarray(x, np.int32) for name, x in numbers.items()}, examples

    place = partial(place_rows, sharding=sharding, batch_size=config.batch_size)
    return StreamedData(_in_threads(submit, itertools.count(start_step)), place)


def _in_threads(
    submit: Callable[..., tuple[Example, list[Future[Example]]]], steps: Iterator[Any]
) -> Iterator[Example]:
    """Yield the batch of each step, while threads read the next batches."""
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        pending = collections.deque(submit(pool, step) for step in itertools.islice(steps, _AHEAD))
        while pending:
            numbers, futures = pending.popleft()
            pending.extend(submit(pool, step) for step in itertools.islice(steps, 1))
            yield numbers | _stacked([future.result() for future in futures])


def _stacked(examples: Sequence[Example]) -> Example:
    return {name: np.stack([each[name] for each in examples]) for name in examples[0]}


class EvaluatedImages:
    """Every image of a split exactly once, in groups of one padded size.

    Batches are no larger than the largest group, rounded up to the same number on each device.
    Yields dicts with the arrays of `load_image`, "index" int32 [B] and "mask" bool [B]; the last
    batch of each group is padded, where the mask is False. A skipped image has the size 0.

    Each padded size costs a compilation. With `bucketed` the sizes are those of training: few, but
    padding changes results a little.

    Attributes:
      data: the split.
      sizes: the padded sizes.
      num_examples: number of images.
      batch_size: images of a batch, over all processes.
      skip: whether damaged images are skipped.
    """

    def __init__(
        self,
        data: Annotated,
        form: Form,
        *,
        batch_size: int,
        skip: bool,
        sharding: NamedSharding,
        bucketed: bool = False,
    ) -> None:
        groups: dict[tuple[int, int], list[int]] = {}
        for index, image in enumerate(data.images):
            size = form.training_sizes[form.bucket(image)] if bucketed else form.padded(image)
            groups.setdefault(size, []).append(index)
        largest, devices = max(map(len, groups.values())), sharding.num_devices
        batch_size = min(batch_size, -(-largest // devices) * devices)
        self.data = data
        self.sizes = sorted(groups)
        self.num_examples = len(data.images)
        self.batch_size = batch_size
        self.skip = skip
        self._loader = _Loader(data, form, skip)
        self._rows = local_rows(sharding, batch_size)
        self._sharding = sharding
        self._batches = [
            (size, np.array(members[first : first + batch_size]))
            for size, members in sorted(groups.items())
            for first in range(0, len(members), batch_size)
        ]

    def __len__(self) -> int:
        return len(self._batches)

    def check(self) -> None:
        """Read the first batch; raise `UserError` if an image is wrong."""
        next(iter(self))

    def __iter__(self) -> Iterator[dict[str, jax.Array]]:
        for batch in _in_threads(self._submit, iter(self._batches)):
            yield place_rows(batch, self._sharding, self.batch_size)

    def _submit(
        self, pool: ThreadPoolExecutor, batch: tuple[tuple[int, int], np.ndarray]
    ) -> tuple[Example, list[Future[Example]]]:
        size, members = batch
        mask = self._rows < len(members)
        index = np.where(mask, members[np.minimum(self._rows, len(members) - 1)], -1)
        examples = [
            pool.submit(self._loader.image, i, size) if i >= 0 else pool.submit(no_image, size)
            for i in index.tolist()
        ]
        return {"index": index.astype(np.int32), "mask": mask}, examples
