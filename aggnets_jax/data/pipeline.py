"""Batches on the devices, for training and for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import jax
import ml_collections
import numpy as np
from jax.sharding import NamedSharding

from aggnets_jax.data.catalog import open_prepared
from aggnets_jax.data.info import DatasetInfo, describe
from aggnets_jax.data.placement import local_rows, place_rows, replicate
from aggnets_jax.data.reading import check_labels, load_split
from aggnets_jax.data.sampler import EpochSampler
from aggnets_jax.data.streaming import eval_dataset, train_dataset
from aggnets_jax.errors import UserError

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

Batch = dict[str, jax.Array]
HostBatch = dict[str, np.ndarray]


def train_batches(
    data_config: ml_collections.ConfigDict,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    sharding: NamedSharding,
) -> Iterator[Batch]:
    """Returns the endless training batches of steps start_step, start_step + 1, ...

    A batch is a function of (config, seed, step): neither where the run began nor the number of
    devices or processes changes it. Every example comes exactly once an epoch, and batches run on
    across the end of an epoch.

    Args:
      data_config: the `data` part of a config.
      batch_size: of the whole batch, over all devices and processes.
      seed: of order and host augmentation, at least 0.
      start_step: the first step to yield.
      sharding: over the batch axis.

    Returns:
      An iterator of dicts: "image" uint8 [B, H, W, C]; "label", "epoch", "index" int32 [B].
      "index" is the example's number in the split's reading order.

    Raises:
      UserError: the config cannot be met, or the batch not be divided over the devices.
    """
    rows = local_rows(sharding, batch_size)
    if seed < 0:
        raise UserError(f"seed must be at least 0, not {seed}")
    info = describe(data_config)
    builder = open_prepared(data_config.name, data_config.data_dir)
    if info.resident:
        return _resident_batches(builder, info, batch_size, seed, start_step, sharding)
    dataset = train_dataset(
        builder,
        info,
        batch_size=batch_size,
        rows=rows,
        seed=seed,
        start_step=start_step,
        flip=data_config.flip,
    )
    return _streamed_batches(dataset.as_numpy_iterator(), info, batch_size, sharding)


def _resident_batches(
    builder: tfds.core.DatasetBuilder,
    info: DatasetInfo,
    batch_size: int,
    seed: int,
    start_step: int,
    sharding: NamedSharding,
) -> Iterator[Batch]:
    """Yields batches gathered from images that lie on every device."""
    images, labels = (
        replicate(array, sharding)
        for array in load_split(builder, info.train_split, info.num_classes)
    )
    rows = local_rows(sharding, batch_size)
    sampler = EpochSampler(info.num_train, seed)
    gather = jax.jit(_gather, out_shardings=sharding)
    step = start_step
    while True:
        epoch, index = sampler.batch(step, batch_size)
        chosen = place_rows({"epoch": epoch[rows], "index": index[rows]}, sharding, batch_size)
        yield gather(images, labels, **chosen)
        step += 1


def _gather(images: jax.Array, labels: jax.Array, epoch: jax.Array, index: jax.Array) -> Batch:
    return {"image": images[index], "label": labels[index], "epoch": epoch, "index": index}


def _streamed_batches(
    host: Iterator[HostBatch], info: DatasetInfo, batch_size: int, sharding: NamedSharding
) -> Iterator[Batch]:
    """Yields batches decoded by the host, each moved while the step before it is computed."""
    ahead = None
    for rows in host:
        check_labels(rows["label"], info.num_classes, info.train_split)
        behind, ahead = ahead, place_rows(rows, sharding, batch_size)
        if behind is not None:
            yield behind


class EvalBatches:
    """Every example of a split exactly once, in fixed order; iterate as often as needed.

    Yields dicts: "image" uint8 [B, H, W, C], "label" int32 [B], "mask" bool [B]. The last batch
    is padded with zeros, where the mask is False. Batches of resident sets stay on the devices
    after the first pass.

    Attributes:
      num_examples: in the split.
      batch_size: B.
    """

    def __init__(
        self,
        read: Callable[[], Iterator[HostBatch]],
        info: DatasetInfo,
        batch_size: int,
        sharding: NamedSharding,
    ) -> None:
        """Reads nothing before the first pass.

        Args:
          read: begins a pass over "image" and "label" of the examples that fall into this
            process's rows of the batches, as many at a time as it has rows.
          info: from `describe`.
          batch_size: of the whole batch, over all devices and processes.
          sharding: over the batch axis.
        """
        self.num_examples = info.num_eval
        self.batch_size = batch_size
        self._read = read
        self._info = info
        self._sharding = sharding
        self._rows = local_rows(sharding, batch_size)
        self._kept: list[Batch] | None = None

    def __len__(self) -> int:
        return -(-self.num_examples // self.batch_size)

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
                check_labels(examples["label"], self._info.num_classes, self._info.eval_split)
                images[mask], labels[mask] = examples["image"], examples["label"]
            batch = {"image": images, "label": labels, "mask": mask}
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
      UserError: the config cannot be met, or the batch not be divided over the devices.
    """
    rows = local_rows(sharding, batch_size)
    info = describe(data_config)
    builder = open_prepared(data_config.name, data_config.data_dir)
    dataset = eval_dataset(builder, info, batch_size=batch_size, rows=rows)
    return EvalBatches(dataset.as_numpy_iterator, info, batch_size, sharding)
