"""Batches on the devices, for training and for evaluation."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

import jax
import ml_collections
import numpy as np
from jax.sharding import NamedSharding

from aggnets_jax.data.catalog import open_prepared
from aggnets_jax.data.dataset_info import DatasetInfo, describe
from aggnets_jax.data.host_pipeline import (
    HostBatch,
    eval_dataset,
    file_dataset,
    load_split,
    train_dataset,
)
from aggnets_jax.data.resident import Batch, ResidentData
from aggnets_jax.errors import UserError
from aggnets_jax.runtime.mesh import local_rows, place_rows


class StreamedData:
    """Batches of a training split that the host reads and decodes, in the order of their steps.

    Each is moved to the devices while the step before it is computed.

    Attributes:
      most_steps: 1, whose batch a feed is.
    """

    most_steps = 1

    def __init__(
        self,
        batches: Iterator[HostBatch],
        batch_size: int,
        sharding: NamedSharding,
    ) -> None:
        """Reads the first batch.

        Args:
          batches: rows of this process, from the first step on.
          batch_size: of the whole batch, over all devices and processes.
          sharding: over the batch axis.
        """
        self._batches = batches
        self._batch_size = batch_size
        self._sharding = sharding
        self._ahead = self._next()

    def _next(self) -> Batch | UserError:
        try:
            return place_rows(next(self._batches), self._sharding, self._batch_size)
        except UserError as error:
            return error  # for the step of this batch, which may never come

    def feed(self, step: int) -> Batch:
        """The batch of the next step."""
        del step  # which follows from the calls before
        now = self._ahead
        if isinstance(now, UserError):
            raise now
        self._ahead = self._next()
        return now

    def batch(self, feed: Batch, step: int | jax.Array) -> Batch:
        """The batch itself."""
        del step
        return feed


def train_data(
    data_config: ml_collections.ConfigDict,
    *,
    batch_size: int,
    seeds: int | np.ndarray,
    start_step: int = 0,
    most_steps: int = 1,
    sharding: NamedSharding,
) -> ResidentData | StreamedData:
    """Returns the batches of the training split.

    A batch is a function of (config, seed, step): neither where the run began nor the number of
    devices or processes changes it. Every example comes exactly once an epoch, and batches run on
    across the end of an epoch.

    With `damaged` "skip" an image that can't be decoded is black and has the label -1, and so has
    each that is lost with its file; these, where they are streamed, have the index -1. Each is
    named once in a line on stderr, by the process that reads it.

        feed = training.feed(step)  # for each dispatch
        batch = training.batch(feed, i)  # inside jit: that of step + i, for i < most_steps

    Args:
      data_config: the `data` part of a config.
      batch_size: of the whole batch, over all devices and processes.
      seeds: of order and host augmentation, at least 0; several only for resident data.
      start_step: the first step of which a feed will be asked.
      most_steps: whose batches a feed of resident data makes.
      sharding: over the batch axis.

    Raises:
      UserError: the config cannot be met, or the batch not be divided over the devices; here for
        resident data, and else in `feed` (for the first batch here), an image or a label is not
        what it should be.
    """
    rows = local_rows(sharding, batch_size)
    if np.min(seeds) < 0:
        raise UserError(f"seed must be at least 0, not {np.min(seeds)}")
    info = describe(data_config)
    builder = open_prepared(data_config.name, data_config.data_dir)
    skip = data_config.damaged == "skip"
    if info.resident:
        return ResidentData(
            *load_split(builder, info, info.train_split, skip=skip),
            batch_size=batch_size,
            seeds=seeds,
            most_steps=most_steps,
            sharding=sharding,
        )
    if np.ndim(seeds):
        raise UserError(
            f"several seeds train at once on images that live on the devices, and those of"
            f" {data_config.name} do not: set num_seeds=1"
        )
    dataset = train_dataset(
        builder,
        info,
        batch_size=batch_size,
        rows=rows,
        seed=int(seeds),
        start_step=start_step,
        skip=skip,
    )
    return StreamedData(iter(dataset), batch_size, sharding)


def train_batches(
    data_config: ml_collections.ConfigDict,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    sharding: NamedSharding,
) -> Iterator[Batch]:
    """Returns the endless training batches of steps start_step, start_step + 1, ...

    For a loop of one's own; arguments and errors are those of `train_data`.

    Returns:
      An iterator of dicts: "image" uint8 [B, H, W, C]; "label", "epoch", "index" int32 [B].
      "index" is the example's number in the split's reading order.
    """
    training = train_data(
        data_config, batch_size=batch_size, seeds=seed, start_step=start_step, sharding=sharding
    )
    batch = jax.jit(training.batch, static_argnums=1)
    return (batch(training.feed(step), 0) for step in itertools.count(start_step))


class EvalBatches:
    """Every example of a split exactly once, in fixed order; iterate as often as needed.

    Yields dicts: "image" uint8 [B, H, W, C], "label" int32 [B], "mask" bool [B]. The last batch
    is padded with zeros, where the mask is False; so it is for images that are skipped, whose label
    is -1. Batches of resident sets stay on the devices after the first pass.

    Attributes:
      num_examples: in the split.
      batch_size: B.
      skip: whether damaged images are skipped.
    """

    def __init__(
        self,
        read: Callable[[], Iterator[HostBatch]],
        info: DatasetInfo,
        batch_size: int,
        sharding: NamedSharding,
        skip: bool = False,
    ) -> None:
        """Reads nothing before the first pass.

        Args:
          read: begins a pass over "image" and "label" of the examples that fall into this
            process's rows of the batches, as many at a time as it has rows.
          info: from `describe`.
          batch_size: of the whole batch, over all devices and processes.
          sharding: over the batch axis.
          skip: whether damaged images are skipped.
        """
        self.num_examples = info.num_eval
        self.batch_size = batch_size
        self.skip = skip
        self._read = read
        self._info = info
        self._sharding = sharding
        self._rows = local_rows(sharding, batch_size)
        self._kept: list[Batch] | None = None

    def __len__(self) -> int:
        return -(-self.num_examples // self.batch_size)

    def check(self) -> None:
        """Reads the first batch, or all batches that will stay on the devices.

        Raises:
          UserError: an image or a label is not what it should be.
        """
        next(iter(self))

    def __iter__(self) -> Iterator[Batch]:
        if not self._info.resident:
            return self._batches()
        if self._kept is None:
            self._kept = list(self._batches())
        return iter(self._kept)

    def _batches(self) -> Iterator[Batch]:
        host = self._read()
        for start in range(0, self.num_examples, self.batch_size):
            mask = start + self._rows < self.num_examples
            images = np.zeros((len(mask), *self._info.image_shape), np.uint8)
            labels = np.zeros(len(mask), np.int32)
            if mask.any():  # the last batch may end before the rows of this process
                examples = next(host)
                images[mask], labels[mask] = examples["image"], examples["label"]
            batch = {"image": images, "label": labels, "mask": mask & (labels >= 0)}
            yield place_rows(batch, self._sharding, self.batch_size)


def eval_batches(
    data_config: ml_collections.ConfigDict, *, batch_size: int, sharding: NamedSharding
) -> EvalBatches:
    """Returns the batches of the evaluation split.

    Args:
      data_config: the `data` part of a config.
      batch_size: of the whole batch, over all devices and processes; the number of examples need
        not be divisible by it.
      sharding: over the batch axis.

    Raises:
      UserError: the config cannot be met, or the batch not be divided over the devices; in a pass,
        an image or a label is not what it should be.
    """
    rows = local_rows(sharding, batch_size)
    info = describe(data_config)
    builder = open_prepared(data_config.name, data_config.data_dir)
    skip = data_config.damaged == "skip"
    dataset = eval_dataset(
        builder, info, info.eval_split, batch_size=batch_size, rows=rows, skip=skip
    )
    return EvalBatches(lambda: iter(dataset), info, batch_size, sharding, skip)


def file_batches(
    files: Sequence[str], info: DatasetInfo, *, batch_size: int, sharding: NamedSharding
) -> EvalBatches:
    """Returns batches of files of images as those of an evaluation split, with labels of zero.

    Args:
      files: JPEG, PNG, GIF or BMP, of any size.
      info: of the data set whose images they are like; no data set is read.
      batch_size: of the whole batch, over all devices and processes.
      sharding: over the batch axis.

    Raises:
      UserError: the batch cannot be divided over the devices; in a pass, a file is no image.
    """
    rows = local_rows(sharding, batch_size)
    dataset = file_dataset(files, info, batch_size=batch_size, rows=rows)
    info = dataclasses.replace(info, num_eval=len(files), resident=False)
    return EvalBatches(lambda: iter(dataset), info, batch_size, sharding)
