"""Batches on the devices, for training and for evaluation."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

import jax
import ml_collections
import numpy as np
from jax.sharding import NamedSharding

from aggnets_jax.arguments import check_whole_number
from aggnets_jax.data.class_maps import ClassMap
from aggnets_jax.data.dataset_info import (
    DatasetInfo,
    Split,
    may_stay,
    open_and_describe,
    shared_examples,
)
from aggnets_jax.data.host_pipeline import (
    HostBatch,
    eval_dataset,
    file_dataset,
    load_split,
    train_dataset,
)
from aggnets_jax.data.label_sets import read_label_sets
from aggnets_jax.data.record_order import BatchRows
from aggnets_jax.data.resident import Batch, ResidentData
from aggnets_jax.errors import UserError
from aggnets_jax.runtime.distributed import is_first
from aggnets_jax.runtime.mesh import local_rows, place_rows
from aggnets_jax.runtime.notes import print_once


class StreamedData:
    """Batches of a training split that the host reads and decodes, in the order of their steps.

    Each batch is moved to the devices by `place` while the step before it is computed; the
    constructor reads the first. A feed is the batch of one step.
    """

    most_steps = 1

    def __init__(self, batches: Iterator[HostBatch], place: Callable[[HostBatch], Batch]) -> None:
        self._placed = map(place, batches)
        self._ahead = self._next()

    def _next(self) -> Batch | Exception:
        try:
            return next(self._placed)
        except (UserError, OSError) as error:
            return error  # raised at the step of this batch, which may never come

    def feed(self, step: int) -> Batch:
        """Return the batch of the next step."""
        del step  # the number of earlier calls determines the batch
        now = self._ahead
        if isinstance(now, Exception):
            raise now
        self._ahead = self._next()
        return now

    def batch(self, feed: Batch, step: int | jax.Array) -> Batch:
        """Return the feed, which is the batch."""
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
    """Return the batches of the training split.

    A batch is a function of (config, seed, step); it depends neither on the step where the run
    began nor on the number of devices or processes. Every example comes exactly once an epoch, and
    batches run across the end of an epoch. With `repeats` r, each example fills r places of a
    batch, with "epoch" r e, ..., r e + r - 1 in pass e over the examples: each is augmented apart.

    With `damaged` "skip", an image that can't be decoded is black and has the label -1; so is every
    image that is lost because its file is damaged, whose index is -1, too, if it is streamed. The
    process that reads a damaged image prints one line about it on stderr.

        feed = training.feed(step)  # for each dispatch
        batch = training.batch(feed, i)  # inside jit: the batch of step + i, for i < most_steps

    Args:
      data_config: the `data` part of a config.
      batch_size: size of the whole batch, over all devices and processes.
      seeds: seed of order and host augmentation, at least 0; several only for resident data.
      start_step: step of the first feed.
      most_steps: number of steps for which a feed of resident data makes batches.
      sharding: sharding of the batch axis.

    Raises:
      UserError: the config can't be met, the batch can't be divided over the devices, or an image
        or a label is wrong. Streamed images and labels are checked for the first batch here, and
        for the others in `feed`.
    """
    rows = BatchRows(batch_size, local_rows(sharding, batch_size))
    if np.min(seeds) < 0:
        raise UserError(f"seed must be at least 0, not {np.min(seeds)}")
    repeats = data_config.repeats
    check_whole_number("config.data.repeats", repeats, 1)
    if batch_size % repeats:
        raise UserError(
            f"config.batch_size {batch_size} is not divisible by config.data.repeats {repeats};"
            f" nearest: {max(1, round(batch_size / repeats)) * repeats}"
        )
    split = _open_split(data_config, train=True)
    if is_first() and (shared := shared_examples(split.builder, split.name, split.info.eval_split)):
        both = f"{shared} of {split.info.num_eval} images of {split.info.eval_split!r}"
        print_once(f"warning: {both}, the evaluation, are also in {split.name!r}, the training")
    if split.info.resident:
        return ResidentData(
            *load_split(split),
            batch_size=batch_size,
            seeds=seeds,
            most_steps=most_steps,
            sharding=sharding,
            repeats=repeats,
        )
    if np.ndim(seeds):
        raise UserError(
            f"several seeds need images on the devices, and {data_config.name} is streamed: set"
            " num_seeds=1"
        )
    batches = train_dataset(split, rows, repeats, seed=int(seeds), start_step=start_step)
    place = functools.partial(place_rows, sharding=sharding, batch_size=batch_size)
    return StreamedData(iter(batches), place)


def _open_split(data_config: ml_collections.ConfigDict, *, train: bool) -> Split:
    builder, info = open_and_describe(data_config)
    name = info.train_split if train else info.eval_split
    return Split(builder, info, name, skip=data_config.damaged == "skip")


def train_batches(
    data_config: ml_collections.ConfigDict,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    sharding: NamedSharding,
) -> Iterator[Batch]:
    """Return the endless training batches of steps start_step, start_step + 1, ...

    A simpler form of `train_data`, with its arguments and errors, for other training loops.

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
    is padded with zeros, where the mask is False. The mask is also False for skipped images, whose
    label is -1, if `skip` is set. Batches stay on the devices after the first pass if the info's
    images are resident. The constructor reads nothing; `read` begins a pass over "image" and
    "label" of the rows.

    `info` describes the data set that is read, also where a network comes from another one.
    `label_sets`, int32 [N, L], has several labels of each image: "labels" int32 [B, L] are in the
    batch, filled up with -1, and "label" is the first. `class_map` maps single labels.
    """

    def __init__(
        self,
        read: Callable[[], Iterator[HostBatch]],
        info: DatasetInfo,
        rows: BatchRows,
        sharding: NamedSharding,
        skip: bool = False,
        *,
        label_sets: np.ndarray | None = None,
        class_map: ClassMap | None = None,
    ) -> None:
        self.num_examples = info.num_eval
        self.batch_size = rows.batch_size
        self.skip = skip
        self._read = read
        self.info = info
        self._sharding = sharding
        self._rows = rows.held
        self._label_sets = label_sets
        self._class_map = class_map
        self._kept: list[Batch] | None = None

    def __len__(self) -> int:
        return -(-self.num_examples // self.batch_size)

    def check(self) -> None:
        """Read the first batch, or all that will stay; raise `UserError` if an image is wrong."""
        next(iter(self))

    def __iter__(self) -> Iterator[Batch]:
        if not self.info.resident:
            return self._batches()
        if self._kept is None:
            self._kept = list(self._batches())
        return iter(self._kept)

    def _batches(self) -> Iterator[Batch]:
        host = self._read()
        for start in range(0, self.num_examples, self.batch_size):
            mask = start + self._rows < self.num_examples
            images = np.zeros((len(mask), *self.info.image_shape), np.uint8)
            labels = np.zeros(len(mask), np.int32)
            if mask.any():  # the last batch may end before the rows of this process
                examples = next(host)
                images[mask], labels[mask] = examples["image"], self._mapped(examples["label"])
            batch = {"image": images, "label": labels}
            if self._label_sets is not None:
                sets = self._label_sets[np.minimum(start + self._rows, self.num_examples - 1)]
                sets = self._mapped(sets)
                batch["labels"] = np.where((labels < 0)[:, None], labels[:, None], sets)
                batch["label"] = labels = np.where(mask, batch["labels"][:, 0], 0)
            batch["mask"] = mask & (labels >= 0)
            yield place_rows(batch, self._sharding, self.batch_size)

    def _mapped(self, labels: np.ndarray) -> np.ndarray:
        if self._class_map is None:
            return labels
        return np.where(labels < 0, labels, self._class_map.labels[labels])


def eval_batches(
    data_config: ml_collections.ConfigDict,
    *,
    batch_size: int,
    sharding: NamedSharding,
    class_map: ClassMap | None = None,
    whole: bool = False,
) -> EvalBatches:
    """Return the batches of the evaluation split; the last one may be padded.

    Batches are no larger than the split, rounded up to the same number on each device. Images of
    any size are resized and their centre is cut out, or with `whole` are resized to the network's
    size. The other arguments and errors are those of `EvalBatches` and `train_data`; images and
    labels are checked in a pass.
    """
    split = _open_split(data_config, train=False)._replace(whole=whole)
    info = split.info
    rows = _eval_rows(batch_size, info.num_eval, sharding)
    # The evaluation split may be larger than the training split.
    stays = info.resident and may_stay(data_config, info.num_eval, info.image_shape)
    return EvalBatches(
        eval_dataset(split, rows),
        dataclasses.replace(info, resident=stays),
        rows,
        sharding,
        split.skip,
        label_sets=read_label_sets(split),
        class_map=class_map,
    )


def _eval_rows(batch_size: int, num_examples: int, sharding: NamedSharding) -> BatchRows:
    devices = sharding.num_devices
    batch_size = min(batch_size, -(-num_examples // devices) * devices)
    return BatchRows(batch_size, local_rows(sharding, batch_size))


def array_batches(
    images: np.ndarray,
    labels: np.ndarray,
    info: DatasetInfo,
    *,
    batch_size: int,
    sharding: NamedSharding,
) -> EvalBatches:
    """Return batches of images in memory, in the form of an evaluation split.

    Images are uint8 [N, height, width, channels] in the shape of `info`, and labels int [N].
    """
    rows = _eval_rows(batch_size, len(labels), sharding)

    def read() -> Iterator[HostBatch]:
        for start in range(0, len(labels), rows.batch_size):
            held = start + rows.held
            held = held[held < len(labels)]
            if len(held):  # the last batch may end before the rows
                yield {"image": images[held], "label": labels[held]}

    info = dataclasses.replace(info, num_eval=len(labels), resident=False)
    return EvalBatches(read, info, rows, sharding)


def file_batches(
    files: Sequence[str], info: DatasetInfo, *, batch_size: int, sharding: NamedSharding
) -> EvalBatches:
    """Return batches of image files, in the form of an evaluation split with labels of zero.

    The files are of any size, in a format that `decoding` reads. `info` has the facts about the
    data set whose images they are like, which is not read. The rest is as for `eval_batches`.
    """
    rows = BatchRows(batch_size, local_rows(sharding, batch_size))
    dataset = file_dataset(files, info, rows)
    info = dataclasses.replace(info, num_eval=len(files), resident=False)
    return EvalBatches(dataset.__iter__, info, rows, sharding)
