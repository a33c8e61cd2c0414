"""The host's pipelines: stored examples, decoded, cropped and resized by tf.data.

The order of an epoch is a function of (seed, epoch): the files are shuffled, then, where they hold
many, the encoded images in a buffer of at most SHUFFLE_BYTES. The crops are a function of (seed,
epoch, index).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from aggnets_jax.data.host_images import any_image, eval_image, train_image
from aggnets_jax.data.image_folder import IMAGE_FOLDER, list_examples
from aggnets_jax.data.info import DatasetInfo
from aggnets_jax.data.reading import check_files, read_encoded, read_in_order
from aggnets_jax.data.tf_runtime import import_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_datasets as tfds

SHUFFLE_BYTES = 1 << 30

HostBatch = dict[str, np.ndarray]


class HostBatches:
    """Batches in the memory of this process, reduced to its rows; each pass reads them anew."""

    def __init__(self, dataset: tf.data.Dataset, files: Sequence[str], channels: int) -> None:
        """Reads nothing before the first pass.

        Args:
          dataset: of the batches.
          files: of single images from which they come, if they do.
          channels: of the images.
        """
        self._dataset = dataset
        self._files = files
        self._channels = channels

    def __iter__(self) -> Iterator[HostBatch]:
        tf = import_tensorflow()
        try:
            yield from self._dataset.as_numpy_iterator()
        except tf.errors.OpError:
            # It does not say which file; they are gone through once more to find it.
            if len(self._files):
                check_files(self._files, self._channels)
            raise


def train_dataset(
    builder: tfds.core.DatasetBuilder,
    info: DatasetInfo,
    *,
    batch_size: int,
    rows: np.ndarray,
    seed: int,
    start_step: int,
) -> HostBatches:
    """Returns the endless batches from `start_step` on, reduced to some of their rows.

    Every process goes through all records in the same order and decodes its own rows, so that
    batches do not depend on the number of processes.

    Args:
      builder: of the prepared data set.
      info: from `describe`.
      batch_size: of the whole batch.
      rows: the rows to decode, ascending, int64 [R].
      seed: of order and crops.
      start_step: the first step; what lies before is skipped without decoding.

    Returns:
      Batches of "image" uint8 [R, H, W, C], and "label", "epoch", "index" int32 [R]. They raise
      UserError at a file of a folder that is no image.
    """
    tf = import_tensorflow()
    files, labels = _files(builder, info, info.train_split)
    if len(files):
        one_epoch = _epochs_of_files(files, labels, seed)
    else:
        one_epoch = _epochs(builder, info.train_split, seed)
    augment = train_image(info, seed)

    def decode(record: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        numbers = {k: tf.cast(record[k], tf.int32) for k in ("label", "epoch", "index")}
        image = augment(_encoded(record), record["epoch"], record["index"])
        return {"image": image, **numbers}

    first_epoch, done = divmod(start_step * batch_size, info.num_train)
    records = tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(one_epoch).skip(done)
    dataset = _decode_rows(records, decode, batch_size, rows)
    return HostBatches(dataset, files, info.image_shape[-1])


def _epochs(
    builder: tfds.core.DatasetBuilder, split: str, seed: int
) -> Callable[[tf.Tensor], tf.data.Dataset]:
    """Returns a function from an epoch to its encoded records, in its order."""
    tf = import_tensorflow()
    buffer_size = _shuffle_buffer(builder, split)
    example_index = _index_from_id(builder, split)

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
        return records.map(
            lambda record: {
                "image": record["image"],
                "label": record["label"],
                "epoch": epoch,
                "index": example_index(record["tfds_id"]),
            }
        )

    return one_epoch


def _epochs_of_files(
    files: np.ndarray, labels: np.ndarray, seed: int
) -> Callable[[tf.Tensor], tf.data.Dataset]:
    """Returns a function from an epoch to its records, with files instead of encoded images."""
    tf = import_tensorflow()
    files, labels = tf.constant(files), tf.constant(labels)

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(
            tf.range(len(labels), dtype=tf.int64), seed=[seed, epoch]
        )
        return tf.data.Dataset.from_tensor_slices(order).map(
            lambda index: {
                "file": files[index],
                "label": labels[index],
                "epoch": epoch,
                "index": index,
            }
        )

    return one_epoch


def eval_dataset(
    builder: tfds.core.DatasetBuilder, info: DatasetInfo, *, batch_size: int, rows: np.ndarray
) -> HostBatches:
    """Returns the batches of the evaluation split in order, reduced to some of their rows.

    Args:
      builder: of the prepared data set.
      info: from `describe`.
      batch_size: of the whole batch.
      rows: the rows to decode, ascending, int64 [R].

    Returns:
      Batches of "image" uint8 [R, H, W, C] and "label" int32 [R]; the last may be smaller. They
      raise UserError at a file of a folder that is no image.
    """
    tf = import_tensorflow()
    files, labels = _files(builder, info, info.eval_split)
    if len(files):
        records = tf.data.Dataset.from_tensor_slices({"file": files, "label": labels})
    else:
        records = read_in_order(builder, info.eval_split)
    dataset = _decode_rows(records, _decoder(eval_image(info)), batch_size, rows)
    return HostBatches(dataset, files, info.image_shape[-1])


def file_dataset(
    files: Sequence[str], info: DatasetInfo, *, batch_size: int, rows: np.ndarray
) -> HostBatches:
    """Returns batches of files of images as those of an evaluation split, with labels of zero.

    Args:
      files: of images, of any size.
      info: of the data set whose images they are like.
      batch_size: of the whole batch.
      rows: the rows to decode, ascending, int64 [R].
    """
    tf = import_tensorflow()
    records = tf.data.Dataset.from_tensor_slices(
        {"file": list(files), "label": np.zeros(len(files), np.int64)}
    )
    dataset = _decode_rows(records, _decoder(any_image(info)), batch_size, rows)
    return HostBatches(dataset, files, info.image_shape[-1])


def _decoder(decode_image: Callable[[tf.Tensor], tf.Tensor]) -> Callable:
    tf = import_tensorflow()

    def decode(record: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {
            "image": decode_image(_encoded(record)),
            "label": tf.cast(record["label"], tf.int32),
        }

    return decode


def _encoded(record: dict[str, tf.Tensor]) -> tf.Tensor:
    """Returns a record's encoded image, read now if it is in a file of its own."""
    return import_tensorflow().io.read_file(record["file"]) if "file" in record else record["image"]


def _files(
    builder: tfds.core.DatasetBuilder, info: DatasetInfo, split: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns files and labels of a folder of images, and none of other data sets."""
    if info.name != IMAGE_FOLDER:
        return np.array([], str), np.array([], np.int64)
    return list_examples(builder, split, info.class_names)


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
