"""Who reads what: the rows of a batch come from streams, each of which reads a range of the split.

A batch of B rows has V streams of k = B / V consecutive rows each. Row r of batch b is place
b B + r in an endless sequence of examples, N to an epoch. So of an epoch a stream has a number of
places that follows from B, V, N and the epoch alone, and it reads as many records, one after the
other. Together the streams read each record once, and a process runs those that its rows come from.

In each epoch all ranges are turned by a random number of records, a range's files are shuffled,
and then its records in a buffer: all functions of (seed, epoch, stream). No number depends on
processes, so neither do batches.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from aggnets_jax.data.records import SplitReader
from aggnets_jax.data.tf_runtime import import_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf

# In one process all are open at once.
MOST_STREAMS = 64


@dataclasses.dataclass(frozen=True)
class Streams:
    """The streams of a training split, as numbers.

    Attributes:
      num_examples: N, of an epoch.
      batch_size: B, of the whole batch.
      count: V, a divisor of B.
    """

    num_examples: int
    batch_size: int
    count: int

    @property
    def rows_each(self) -> int:
        """k, the rows of a batch that come from one stream."""
        return self.batch_size // self.count

    def begin(self, stream: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
        """Returns how many examples of an epoch come from the streams before this one, int64.

        That of `stream + 1` is the end of its range: N for the last.

        Args:
          stream: its number, V at most, int64.
          epoch: int64.
        """
        first = epoch * self.num_examples
        return self._before(first + self.num_examples, stream) - self._before(first, stream)

    def done(self, stream: tf.Tensor, step: int) -> tf.Tensor:
        """Returns how many examples of the step's first epoch the stream has given before.

        Args:
          stream: its number, below V, int64.
          step: at least 0.
        """
        first = step * self.batch_size // self.num_examples * self.num_examples
        return step * self.rows_each - (
            self._before(first, stream + 1) - self._before(first, stream)
        )

    def _before(self, place: int | tf.Tensor, stream: tf.Tensor) -> tf.Tensor:
        """Returns how many places before `place` are those of streams before `stream`."""
        tf = import_tensorflow()
        rows = stream * self.rows_each
        return place // self.batch_size * rows + tf.minimum(rows, place % self.batch_size)


def count_streams(batch_size: int, num_files: int) -> int:
    """Returns V, the largest divisor of the batch that is at most MOST_STREAMS.

    It is at most the number of files, too: a range begins anywhere in a file, whose records before
    it are passed over, and that is dear where ranges are much shorter than files.

    Args:
      batch_size: B, of the whole batch.
      num_files: of the split.
    """
    most = min(MOST_STREAMS, batch_size, num_files)
    return next(count for count in range(most, 0, -1) if batch_size % count == 0)


def train_records(
    reader: SplitReader,
    *,
    batch_size: int,
    rows: np.ndarray,
    seed: int,
    start_step: int,
    buffer_size: int,
) -> tf.data.Dataset:
    """Returns the records of the endless batches from a step on, reduced to some of their rows.

    Args:
      reader: of the split.
      batch_size: B, of the whole batch.
      rows: ascending, int64 [R].
      seed: of the order.
      start_step: the first step; what lies before it in its epoch is passed over.
      buffer_size: records in the buffers in which all streams shuffle.

    Returns:
      "record" and "index", as `SplitReader.read` has them, and "epoch" int64, as scalars.
    """
    tf = import_tensorflow()
    count = count_streams(batch_size, reader.num_files)
    streams = Streams(reader.num_examples, batch_size, count)
    numbers = np.unique(rows // streams.rows_each)
    buffer_each = max(1, buffer_size // count)
    first_epoch = start_step * batch_size // reader.num_examples

    @tf.autograph.experimental.do_not_convert  # see SplitReader.read
    def one_stream(stream: tf.Tensor) -> tf.data.Dataset:
        epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
        records = epochs.flat_map(lambda epoch: one_epoch(stream, epoch))
        return records.skip(streams.done(stream, start_step))

    def one_epoch(stream: tf.Tensor, epoch: tf.Tensor) -> tf.data.Dataset:
        epoch_seed = tf.stack([tf.constant(seed, tf.int64), epoch])
        turn = tf.random.stateless_uniform(
            [], epoch_seed, maxval=reader.num_examples, dtype=tf.int64
        )
        begin = streams.begin(stream, epoch)
        seeds = tf.random.stateless_uniform(
            [3], tf.random.fold_in(epoch_seed, stream), maxval=tf.int64.max, dtype=tf.int64
        )
        start, size = (begin + turn) % reader.num_examples, streams.begin(stream + 1, epoch) - begin
        records = reader.read(start, size, seed=seeds[:2])
        records = records.shuffle(buffer_each, seed=seeds[2], reshuffle_each_iteration=False)
        return records.map(lambda record: {**record, "epoch": epoch})

    records = tf.data.Dataset.from_tensor_slices(numbers).interleave(
        one_stream,
        cycle_length=len(numbers),
        block_length=streams.rows_each,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    read = numbers[:, None] * streams.rows_each + np.arange(streams.rows_each)
    return only_rows(records, read.size, np.flatnonzero(np.isin(read, rows)))


def eval_records(reader: SplitReader, batch_size: int, rows: np.ndarray) -> tf.data.Dataset:
    """Returns the records of the batches of a split in order, reduced to some of their rows.

    Where files hold no more than a batch, only what the rows hold is read. Otherwise a file would
    have to be opened and gone through for each of its batches, so that it is read once instead.

    Args:
      reader: of the split.
      batch_size: B, of the whole batch.
      rows: ascending, int64 [R].

    Returns:
      "record" and "index" of each, as `SplitReader.read` has them.
    """
    tf = import_tensorflow()
    total = reader.num_examples
    if len(rows) == batch_size or total > batch_size * reader.num_files:
        return only_rows(reader.read(0, total), batch_size, rows)
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    edges = np.array([(run[0], run[-1] + 1) for run in runs], np.int64)
    ranges = np.arange(0, total, batch_size)[:, None, None] + edges
    starts, ends = np.minimum(ranges.reshape(-1, 2), total).T
    held = starts < ends  # the last batch may end before the rows of this process
    ranges = tf.data.Dataset.from_tensor_slices((starts[held], (ends - starts)[held]))
    return ranges.flat_map(reader.read)


def only_rows(records: tf.data.Dataset, batch_size: int, rows: np.ndarray) -> tf.data.Dataset:
    """Returns those of the records that fall into some rows of their batches.

    Args:
      records: of whole batches, the last may be smaller.
      batch_size: records of a batch.
      rows: ascending, int64 [R].
    """
    tf = import_tensorflow()
    if len(rows) == batch_size:
        return records
    held = tf.constant(np.isin(np.arange(batch_size), rows))
    records = records.enumerate().filter(lambda place, _: held[place % batch_size])
    return records.map(lambda _, record: record)
