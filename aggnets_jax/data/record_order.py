"""The order of records: the record for each row of each batch, and the process that reads it.

A training batch of B rows has V streams of k = B / V consecutive rows each. Row r of batch b is
place b B + r in an endless sequence of examples, with N examples per epoch. The number of a
stream's places in an epoch therefore depends only on B, V, N and the epoch. The stream reads a
range of the split with as many records. Together the streams read each record once per epoch, and a
process runs the streams of its rows.

In each epoch all ranges are shifted by a random number of records, the files of each range are
shuffled, and its records are shuffled in a buffer. All this depends on (seed, epoch, stream) and
not on the number of processes. Batches therefore don't depend on it either.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from aggnets_jax.data.records import SplitReader
from aggnets_jax.data.tf_runtime import import_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf

# In one process all streams are open at once.
MOST_STREAMS = 64


class BatchRows(NamedTuple):
    """The rows of every batch that this process reads.

    Attributes:
      batch_size: B, rows of the whole batch, over all devices and processes.
      held: numbers of this process's rows, ascending, int64 [R].
    """

    batch_size: int
    held: np.ndarray

    def select(self, records: tf.data.Dataset) -> tf.data.Dataset:
        """Return the records in these rows, from the records of whole batches in their order."""
        tf = import_tensorflow()
        if len(self.held) == self.batch_size:
            return records
        held = tf.constant(np.isin(np.arange(self.batch_size), self.held))
        records = records.enumerate().filter(lambda place, _: held[place % self.batch_size])
        return records.map(lambda _, record: record)

    def of_repeated(self, repeats: int) -> BatchRows:
        """Return the rows of different examples, of which `repeats` copies each fill these rows."""
        return BatchRows(self.batch_size // repeats, np.unique(self.held // repeats))


@dataclasses.dataclass(frozen=True)
class Streams:
    """The streams of a training split, as numbers: N, B, and the number V of streams."""

    num_examples: int
    batch_size: int
    count: int

    @property
    def rows_each(self) -> int:
        """k, the rows of a batch that come from one stream."""
        return self.batch_size // self.count

    def begin(self, stream: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
        """Return how many examples of an epoch come from the streams before this one, int64.

        The beginning of stream `stream + 1` is the end of this stream's range; V has N.
        """
        first = epoch * self.num_examples
        return self._before(first + self.num_examples, stream) - self._before(first, stream)

    def done(self, stream: tf.Tensor, step: int) -> tf.Tensor:
        """Return how many examples the stream has given before `step` in the step's first epoch."""
        first = step * self.batch_size // self.num_examples * self.num_examples
        before = self._before(first, stream + 1) - self._before(first, stream)
        return step * self.rows_each - before

    def _before(self, place: int | tf.Tensor, stream: tf.Tensor) -> tf.Tensor:
        """Return how many places before `place` belong to streams before `stream`."""
        rows = stream * self.rows_each
        minimum = import_tensorflow().minimum(rows, place % self.batch_size)
        return place // self.batch_size * rows + minimum


def count_streams(batch_size: int, num_files: int) -> int:
    """Return V, the largest divisor of the batch size that is at most MOST_STREAMS.

    It is also at most the number of files of the split, because a range may begin anywhere in a
    file, whose earlier records must be passed over: ranges must not be much shorter than files.
    """
    most = min(MOST_STREAMS, batch_size, num_files)
    return next(count for count in range(most, 0, -1) if batch_size % count == 0)


def train_records(
    reader: SplitReader, rows: BatchRows, *, seed: int, start_step: int, buffer_size: int
) -> tf.data.Dataset:
    """Return the records of the endless training batches from a step on, as for `train_dataset`.

    `buffer_size` is the number of records in the shuffle buffers of all streams together.

    Returns:
      Scalars: "record" and "index" from `SplitReader.read`, and "epoch" int64.
    """
    tf = import_tensorflow()
    batch_size, total = rows.batch_size, reader.num_examples
    streams = Streams(total, batch_size, count_streams(batch_size, reader.num_files))
    numbers = np.unique(rows.held // streams.rows_each)
    buffer_each = max(1, buffer_size // streams.count)
    first_epoch = start_step * batch_size // total

    @tf.autograph.experimental.do_not_convert  # see SplitReader.read
    def one_stream(stream: tf.Tensor) -> tf.data.Dataset:
        epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
        records = epochs.flat_map(lambda epoch: one_epoch(stream, epoch))
        return records.skip(streams.done(stream, start_step))

    def one_epoch(stream: tf.Tensor, epoch: tf.Tensor) -> tf.data.Dataset:
        epoch_seed = tf.stack([tf.constant(seed, tf.int64), epoch])
        shift = tf.random.stateless_uniform([], epoch_seed, maxval=total, dtype=tf.int64)
        begin = streams.begin(stream, epoch)
        seeds = tf.random.stateless_uniform(
            [3], tf.random.fold_in(epoch_seed, stream), maxval=tf.int64.max, dtype=tf.int64
        )
        size = streams.begin(stream + 1, epoch) - begin
        records = reader.read((begin + shift) % total, size, seed=seeds[:2])
        records = records.shuffle(buffer_each, seed=seeds[2], reshuffle_each_iteration=False)
        return records.map(lambda record: {**record, "epoch": epoch})

    records = tf.data.Dataset.from_tensor_slices(numbers).interleave(
        one_stream,
        cycle_length=len(numbers),
        block_length=streams.rows_each,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    read = (numbers[:, None] * streams.rows_each + np.arange(streams.rows_each)).ravel()
    return BatchRows(len(read), np.flatnonzero(np.isin(read, rows.held))).select(records)


def repeated(
    records: tf.data.Dataset, once: BatchRows, rows: BatchRows, repeats: int
) -> tf.data.Dataset:
    """Return each training record `repeats` times, for the rows, from the records of rows `once`.

    The "epoch" of copy c is `repeats` times that of the record, plus c.
    """
    if repeats == 1:
        return records
    tf = import_tensorflow()

    def copies(record: dict[str, tf.Tensor]) -> tf.data.Dataset:
        first = record["epoch"] * repeats
        numbers = tf.data.Dataset.range(repeats)
        return numbers.map(lambda copy: {**record, "epoch": first + copy})

    read = (once.held[:, None] * repeats + np.arange(repeats)).ravel()
    held = np.flatnonzero(np.isin(read, rows.held))
    return BatchRows(len(read), held).select(records.flat_map(copies))


def eval_records(reader: SplitReader, rows: BatchRows) -> tf.data.Dataset:
    """Return the records of the batches of a split in order, as from `SplitReader.read`.

    If files hold no more than a batch, only the records of the rows are read. Otherwise each file
    would be opened and passed over for each of its batches, so it is read once as a whole instead.
    """
    tf = import_tensorflow()
    total, batch_size = reader.num_examples, rows.batch_size
    if len(rows.held) == batch_size or total > batch_size * reader.num_files:
        return rows.select(reader.read(0, total))
    runs = np.split(rows.held, np.flatnonzero(np.diff(rows.held) > 1) + 1)
    edges = np.array([(run[0], run[-1] + 1) for run in runs], np.int64)
    ranges = np.arange(0, total, batch_size)[:, None, None] + edges
    starts, ends = np.minimum(ranges.reshape(-1, 2), total).T
    held = starts < ends  # the last batch may end before the rows of this process
    ranges = tf.data.Dataset.from_tensor_slices((starts[held], (ends - starts)[held]))
    return ranges.flat_map(reader.read)


def train_numbers(count: int, rows: BatchRows, *, seed: int, start_step: int) -> tf.data.Dataset:
    """Return the numbers of the endless training batches' examples from a step on.

    All `count` numbers are shuffled together, by (seed, epoch).

    Returns:
      Scalars: "epoch" and "index" int64.
    """
    tf = import_tensorflow()
    first_epoch, done = divmod(start_step * rows.batch_size, count)

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        indices = tf.range(count, dtype=tf.int64)
        order = tf.random.experimental.stateless_shuffle(indices, seed=[seed, epoch])
        return tf.data.Dataset.from_tensor_slices(order).map(
            lambda index: {"epoch": epoch, "index": index}
        )

    epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
    return rows.select(epochs.flat_map(one_epoch).skip(done))


def eval_numbers(count: int, rows: BatchRows) -> tf.data.Dataset:
    """Return the "index" of the examples of the batches in order, as scalars, int64."""
    numbers = import_tensorflow().data.Dataset.range(count)
    return rows.select(numbers.map(lambda index: {"index": index}))


def train_files(
    files: np.ndarray, labels: np.ndarray, rows: BatchRows, *, seed: int, start_step: int
) -> tf.data.Dataset:
    """Return the files of the endless training batches from a step on.

    All files, str [N], and their labels, int64 [N], are shuffled together, by (seed, epoch).

    Returns:
      Scalars: "file", and "label", "epoch" and "index" int64.
    """
    tf = import_tensorflow()
    numbers = train_numbers(len(labels), rows, seed=seed, start_step=start_step)
    files, labels = tf.constant(encoded(files)), tf.constant(labels)
    return numbers.map(
        lambda record: {
            **record,
            "file": files[record["index"]],
            "label": labels[record["index"]],
        }
    )


def eval_files(files: Sequence[str], labels: np.ndarray, rows: BatchRows) -> tf.data.Dataset:
    """Return the "file" and "label" of the batches of files in order, as scalars."""
    records = {"file": encoded(files), "label": labels}
    return rows.select(import_tensorflow().data.Dataset.from_tensor_slices(records))


def encoded(files: Sequence[str]) -> np.ndarray:
    """Return names of files as the system has them, which need not be UTF-8: bytes [N]."""
    return np.array([os.fsencode(file) for file in files])
