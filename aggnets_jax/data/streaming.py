"""The host's pipelines: stored examples, decoded, cropped and resized by tf.data.

The order of an epoch is a function of (seed, epoch): the files are shuffled, then the encoded
images in a buffer of at most SHUFFLE_BYTES. The crops are a function of (seed, epoch, index).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from aggnets_jax.data.host_images import eval_image, train_image
from aggnets_jax.data.info import DatasetInfo
from aggnets_jax.data.reading import read_encoded, read_in_order
from aggnets_jax.data.tf_runtime import import_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_datasets as tfds

SHUFFLE_BYTES = 1 << 30


def train_dataset(
    builder: tfds.core.DatasetBuilder,
    info: DatasetInfo,
    *,
    batch_size: int,
    rows: np.ndarray,
    seed: int,
    start_step: int,
) -> tf.data.Dataset:
    """Returns the endless batches from `start_step` on, reduced to some of their rows.

    Every process reads all records in the same order and decodes its own rows, so that batches do
    not depend on the number of processes.

    Args:
      builder: of the prepared data set.
      info: from `describe`.
      batch_size: of the whole batch.
      rows: the rows to decode, ascending, int64 [R].
      seed: of order and crops.
      start_step: the first step; what lies before is skipped without decoding.

    Returns:
      Batches of "image" uint8 [R, H, W, C], and "label", "epoch", "index" int32 [R].
    """
    tf = import_tensorflow()
    one_epoch = _epochs(builder, info.train_split, seed)
    example_index = _index_from_id(builder, info.train_split)
    augment = train_image(builder, info, seed)

    def decode(record: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        index = example_index(record["tfds_id"])
        return {
            "image": augment(record["image"], record["epoch"], index),
            "label": tf.cast(record["label"], tf.int32),
            "epoch": tf.cast(record["epoch"], tf.int32),
            "index": tf.cast(index, tf.int32),
        }

    first_epoch, done = divmod(start_step * batch_size, info.num_train)
    records = tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(one_epoch).skip(done)
    return _decode_rows(records, decode, batch_size, rows)


def _epochs(
    builder: tfds.core.DatasetBuilder, split: str, seed: int
) -> Callable[[tf.Tensor], tf.data.Dataset]:
    """Returns a function from an epoch to its encoded records, in its order."""
    tf = import_tensorflow()
    buffer_size = _shuffle_buffer(builder, split)

    # TFDS's reader does not pass through AutoGraph, and has nothing for it to convert.
    @tf.autograph.experimental.do_not_convert
    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        file_seed, record_seed = tf.unstack(
            tf.random.stateless_uniform(
                [2], seed=[seed, epoch], minval=0, maxval=tf.int64.max, dtype=tf.int64
            )
        )
        records = read_encoded(
            builder,
            split,
            shuffle_files=True,
            shuffle_seed=file_seed,
            shuffle_reshuffle_each_iteration=False,
            add_tfds_id=True,
        ).shuffle(buffer_size, seed=record_seed, reshuffle_each_iteration=False)
        return records.map(lambda record: record | {"epoch": epoch})

    return one_epoch


def eval_dataset(
    builder: tfds.core.DatasetBuilder, info: DatasetInfo, *, batch_size: int, rows: np.ndarray
) -> tf.data.Dataset:
    """Returns the batches of the evaluation split in order, reduced to some of their rows.

    Args:
      builder: of the prepared data set.
      info: from `describe`.
      batch_size: of the whole batch.
      rows: the rows to decode, ascending, int64 [R].

    Returns:
      Batches of "image" uint8 [R, H, W, C] and "label" int32 [R]; the last may be smaller.
    """
    tf = import_tensorflow()
    decode_image = eval_image(builder, info)

    def decode(record: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {
            "image": decode_image(record["image"]),
            "label": tf.cast(record["label"], tf.int32),
        }

    return _decode_rows(read_in_order(builder, info.eval_split), decode, batch_size, rows)


def _decode_rows(
    records: tf.data.Dataset, decode: Callable, batch_size: int, rows: np.ndarray
) -> tf.data.Dataset:
    tf = import_tensorflow()
    if len(rows) < batch_size:
        held = tf.constant(np.isin(np.arange(batch_size), rows))
        records = records.enumerate().filter(lambda place, _: held[place % batch_size])
        records = records.map(lambda _, record: record)
    images = records.map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return images.batch(len(rows)).prefetch(tf.data.AUTOTUNE)


def _shuffle_buffer(builder: tfds.core.DatasetBuilder, split: str) -> int:
    """Returns how many encoded images of average size fit into SHUFFLE_BYTES, N at most."""
    stored = builder.info.splits.values()
    total = sum(part.num_examples for part in stored)
    bytes_each = max(1, sum(part.num_bytes for part in stored) // total)
    return min(builder.info.splits[split].num_examples, SHUFFLE_BYTES // bytes_each)


def _index_from_id(
    builder: tfds.core.DatasetBuilder, split: str
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function from TFDS's id, "FILE__PLACE IN FILE", to the number in reading order.

    A split is a list of pieces of files, read one after the other. A file may hold several, as in
    "train[:40%]+train[60%:]".
    """
    tf = import_tensorflow()
    pieces = builder.info.splits[split].file_instructions
    lengths = np.array([piece.take for piece in pieces], np.int64)
    first_index = np.cumsum(lengths) - lengths
    # A place in the files laid end to end, in the order in which the split first names them.
    ends = {}
    for piece in pieces:
        file = piece.basename()
        ends[file] = max(ends.get(file, 0), piece.skip + piece.take)
    file_starts = dict(zip(ends, np.cumsum([0, *ends.values()])[:-1], strict=True))
    piece_starts = np.array([file_starts[p.basename()] + p.skip for p in pieces], np.int64)
    order = np.argsort(piece_starts, kind="stable")
    starts = tf.constant(piece_starts[order])
    shifts = tf.constant((first_index - piece_starts)[order])
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(
            tf.constant(list(file_starts)), tf.constant(list(file_starts.values()), tf.int64)
        ),
        default_value=-1,
    )

    def example_index(tfds_id: tf.Tensor) -> tf.Tensor:
        file = tf.strings.regex_replace(tfds_id, "__[0-9]+$", "")
        place = tf.strings.to_number(tf.strings.regex_replace(tfds_id, "^.*__", ""), tf.int64)
        place += table.lookup(file)
        piece = tf.searchsorted(starts, place[None], side="right")[0] - 1
        return place + shifts[piece]

    return example_index
