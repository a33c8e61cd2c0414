"""The host's pipelines: stored examples, decoded, cropped and resized by tf.data.

The order of an epoch is a function of (seed, epoch): the files are shuffled, then, where they hold
many, the encoded images in a buffer of at most SHUFFLE_BYTES. The crops are a function of (seed,
epoch, index).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from aggnets_jax.data.damage import SKIPPED, Files, Record, Records, Source, image_or_black
from aggnets_jax.data.host_images import any_image, eval_image, train_image
from aggnets_jax.data.image_folder import IMAGE_FOLDER, list_examples
from aggnets_jax.data.info import DatasetInfo
from aggnets_jax.data.reading import check_classes, check_labels, read_encoded, read_in_order
from aggnets_jax.data.tf_runtime import import_tensorflow
from aggnets_jax.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_datasets as tfds

SHUFFLE_BYTES = 1 << 30
DECODE_BATCH = 512

HostBatch = dict[str, np.ndarray]


class HostBatches:
    """Batches in the memory of this process, reduced to its rows; each pass reads them anew."""

    def __init__(
        self, dataset: tf.data.Dataset, source: Source, num_classes: int, split: str
    ) -> None:
        """Reads nothing before the first pass.

        Args:
          dataset: of the batches; if it skips what is damaged, with its "damaged".
          source: of the images.
          num_classes: above all labels.
          split: where they come from.
        """
        self._dataset = dataset
        self._source = source
        self._num_classes = num_classes
        self._split = split

    def __iter__(self) -> Iterator[HostBatch]:
        tf = import_tensorflow()
        try:
            for batch in self._dataset.as_numpy_iterator():
                damaged = batch.pop("damaged", None)
                stored = batch["label"]
                if damaged is not None:
                    stored = stored[damaged == b""]
                    self._tell(damaged[damaged != b""])
                check_labels(stored, self._num_classes, self._split)
                yield batch
        except tf.errors.OpError as error:
            # It does not say where; everything is gone through once more to find it.
            always = f"split {self._split!r} can't always be read ({type(error).__name__})"
            raise UserError(self._source.first() or always) from error

    def _tell(self, damaged: np.ndarray) -> None:
        for identity in damaged:
            for message in self._source.of(identity.decode()):
                print(f"skipped: {message}", file=sys.stderr, flush=True)


def train_dataset(
    builder: tfds.core.DatasetBuilder,
    info: DatasetInfo,
    *,
    batch_size: int,
    rows: np.ndarray,
    seed: int,
    start_step: int,
    skip: bool,
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
      start_step: the first step; what lies before is passed over without decoding.
      skip: whether damaged images are skipped, see `damage`.

    Returns:
      Batches of "image" uint8 [R, H, W, C], and "label", "epoch", "index" int32 [R]. They raise
      UserError at an image that can't be read, or is damaged and not skipped. Examples that are
      lost with their file have the index -1.
    """
    tf = import_tensorflow()
    split = info.train_split
    if info.name == IMAGE_FOLDER:
        files, labels = list_examples(builder, split, info.class_names)
        check_classes(labels, split)
        one_epoch = _epochs_of_files(files, labels, seed)
        source = Files(files, info.image_shape[-1])
    else:
        one_epoch = _epochs(builder, split, seed, skip)
        source = Records(builder, info, split)
    augment = train_image(info, seed)

    def decode(record: Record) -> tf.Tensor:
        return augment(_encoded(record), record["epoch"], record["index"])

    first_epoch, done = divmod(start_step * batch_size, info.num_train)
    records = tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(one_epoch).skip(done)
    dataset = _decode_rows(records, _decoder(decode, info, skip), batch_size, rows)
    return HostBatches(dataset, source, info.num_classes, split)


def _epochs(
    builder: tfds.core.DatasetBuilder, split: str, seed: int, skip: bool
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
            fill_up=skip,
            shuffle_files=True,
            shuffle_seed=file_seed,
            shuffle_reshuffle_each_iteration=False,
        ).shuffle(buffer_size, seed=record_seed, reshuffle_each_iteration=False)
        return records.map(
            lambda record: {
                **record,
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
    builder: tfds.core.DatasetBuilder,
    info: DatasetInfo,
    split: str,
    *,
    batch_size: int,
    rows: np.ndarray,
    skip: bool,
) -> HostBatches:
    """Returns the batches of a split in order, reduced to some of their rows.

    Args:
      builder: of the prepared data set.
      info: from `describe`.
      split: TFDS split, slices included.
      batch_size: of the whole batch.
      rows: the rows to decode, ascending, int64 [R].
      skip: whether damaged images are skipped, see `damage`.

    Returns:
      Batches of "image" uint8 [R, H, W, C] and "label" int32 [R]; the last may be smaller. They
      raise UserError at an image that can't be read, or is damaged and not skipped.
    """
    tf = import_tensorflow()
    if info.name == IMAGE_FOLDER:
        files, labels = list_examples(builder, split, info.class_names)
        records = tf.data.Dataset.from_tensor_slices({"file": files, "label": labels})
        source = Files(files, info.image_shape[-1])
    else:
        records = read_in_order(builder, split, fill_up=skip)
        source = Records(builder, info, split)
    dataset = _decode_rows(records, _eval_decoder(eval_image(info), info, skip), batch_size, rows)
    return HostBatches(dataset, source, info.num_classes, split)


def load_split(
    builder: tfds.core.DatasetBuilder, info: DatasetInfo, split: str, *, skip: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns all images, uint8 [N, H, W, C], and labels, int32 [N], of a split in order.

    Args:
      builder: of the prepared data set.
      info: from `describe`, of images that are not resized.
      split: TFDS split, slices included.
      skip: whether damaged images are skipped, see `damage`.

    Raises:
      UserError: see `eval_dataset`; or all images are of one class.
    """
    count = builder.info.splits[split].num_examples
    images = np.empty((count, *info.image_shape), np.uint8)
    labels = np.empty(count, np.int32)
    rows = np.arange(DECODE_BATCH)
    batches = eval_dataset(builder, info, split, batch_size=DECODE_BATCH, rows=rows, skip=skip)
    for start, batch in zip(range(0, count, DECODE_BATCH), batches, strict=True):
        part = slice(start, start + DECODE_BATCH)
        images[part], labels[part] = batch["image"], batch["label"]
    check_classes(labels, split)
    return images, labels


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
    decoder = _eval_decoder(any_image(info), info, skip=False)
    dataset = _decode_rows(records, decoder, batch_size, rows)
    source = Files(files, info.image_shape[-1])
    return HostBatches(dataset, source, info.num_classes, "of files")


def _eval_decoder(
    image: Callable[[tf.Tensor], tf.Tensor], info: DatasetInfo, skip: bool
) -> Callable[[Record], Record]:
    return _decoder(lambda record: image(_encoded(record)), info, skip)


def _decoder(
    image: Callable[[Record], tf.Tensor], info: DatasetInfo, skip: bool
) -> Callable[[Record], Record]:
    """Returns a function from a record to an example of a batch, with a decoded image."""
    tf = import_tensorflow()

    def numbers(record: Record) -> Record:
        kept = record.keys() & {"label", "epoch", "index"}
        return {key: tf.cast(record[key], tf.int32) for key in kept}

    if not skip:
        return lambda record: {"image": image(record), **numbers(record)}
    or_black = image_or_black(image, info.image_shape)

    def decode(record: Record) -> Record:
        example = numbers(record)
        example["image"], whole = or_black(record)
        example["label"] = tf.where(whole, example["label"], SKIPPED)
        name = record["file" if "file" in record else "tfds_id"]
        return {**example, "damaged": tf.where(whole, "", name)}

    return decode


def _encoded(record: Record) -> tf.Tensor:
    """Returns a record's encoded image, read now if it is in a file of its own."""
    return import_tensorflow().io.read_file(record["file"]) if "file" in record else record["image"]


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

    For the id of an example that is lost, without a file, the number is -1.

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
        start = table.lookup(file)
        place += start
        piece = tf.maximum(tf.searchsorted(starts, place[None], side="right")[0] - 1, 0)
        return tf.where(start < 0, start, place + shifts[piece])

    return example_index
