"""The host's pipelines: stored examples, decoded, cropped and resized by tf.data.

The order of an epoch is a function of (seed, epoch): of files that hold many images see `streams`,
whose buffers hold at most SHUFFLE_BYTES of encoded images together; other files are shuffled as a
whole. The crops are a function of (seed, epoch, index).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from aggnets_jax.data.damage import Example, Files, Record, Records, Source, example_or_black
from aggnets_jax.data.dataset_info import DatasetInfo
from aggnets_jax.data.decoding import any_image, eval_image, train_image
from aggnets_jax.data.image_folder import IMAGE_FOLDER, list_examples
from aggnets_jax.data.record_order import eval_records, only_rows, train_records
from aggnets_jax.data.records import SplitReader, check_classes, check_labels
from aggnets_jax.data.small import is_small, read_small
from aggnets_jax.data.tf_runtime import import_tensorflow
from aggnets_jax.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_datasets as tfds

SHUFFLE_BYTES = 1 << 30
DECODE_BATCH = 512
# The index in a batch of whatever is lost with its file.
LOST = -1

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


class SmallBatches:
    """Batches as those of `HostBatches`, of a split that TensorFlow reads only if it must."""

    def __init__(
        self,
        read: Callable[[], tuple[np.ndarray, np.ndarray] | None],
        batch_size: int,
        rows: np.ndarray,
        otherwise: Callable[[], HostBatches],
    ) -> None:
        """Reads nothing before the first pass.

        Args:
          read: returns images and labels of the split, or None if they are not in order.
          batch_size: of the whole batch.
          rows: the rows of a batch to have, ascending, int64 [R].
          otherwise: makes the batches then.
        """
        self._read = read
        self._batch_size = batch_size
        self._rows = rows
        self._otherwise = otherwise

    def __iter__(self) -> Iterator[HostBatch]:
        if (small := self._read()) is None:
            yield from self._otherwise()
            return
        images, labels = small
        for start in range(0, len(labels), self._batch_size):
            held = start + self._rows
            held = held[held < len(labels)]
            if len(held):  # the last batch may end before the rows
                yield {"image": images[held], "label": labels[held]}


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

    A process reads the streams that its rows come from, see `streams`, or the files of its rows;
    which these are does not depend on the number of processes, and neither do batches.

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
        first_epoch, done = divmod(start_step * batch_size, info.num_train)
        records = tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(one_epoch).skip(done)
        records = only_rows(records, batch_size, rows)
        source, parse = Files(files, info.image_shape[-1]), _read_file
    else:
        reader = SplitReader(builder, split, fill_up=skip)
        records = train_records(
            reader,
            batch_size=batch_size,
            rows=rows,
            seed=seed,
            start_step=start_step,
            buffer_size=_shuffle_buffer(builder, split),
        )
        source, parse = Records(builder, info, split), _parser(reader)
    augment = train_image(info, seed)

    def decode(record: Record) -> Example:
        encoded, label = parse(record)
        return augment(encoded, record["epoch"], record["index"]), label

    dataset = _decoded(records, _decoder(decode, info, skip), len(rows))
    return HostBatches(dataset, source, info.num_classes, split)


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
) -> Iterable[HostBatch]:
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

    def of_tensorflow() -> HostBatches:
        return _eval_dataset(builder, info, split, batch_size, rows, skip)

    if info.resident and is_small(builder, info, split):
        read = functools.partial(read_small, builder, info, split)
        return SmallBatches(read, batch_size, rows, otherwise=of_tensorflow)
    return of_tensorflow()


def _eval_dataset(
    builder: tfds.core.DatasetBuilder,
    info: DatasetInfo,
    split: str,
    batch_size: int,
    rows: np.ndarray,
    skip: bool,
) -> HostBatches:
    tf = import_tensorflow()
    if info.name == IMAGE_FOLDER:
        files, labels = list_examples(builder, split, info.class_names)
        records = tf.data.Dataset.from_tensor_slices({"file": files, "label": labels})
        records = only_rows(records, batch_size, rows)
        source, parse = Files(files, info.image_shape[-1]), _read_file
    else:
        reader = SplitReader(builder, split, fill_up=skip)
        records = eval_records(reader, batch_size, rows)
        source, parse = Records(builder, info, split), _parser(reader)
    decoder = _eval_decoder(eval_image(info), parse, info, skip)
    return HostBatches(_decoded(records, decoder, len(rows)), source, info.num_classes, split)


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
    decoder = _eval_decoder(any_image(info), _read_file, info, skip=False)
    dataset = _decoded(only_rows(records, batch_size, rows), decoder, len(rows))
    source = Files(files, info.image_shape[-1])
    return HostBatches(dataset, source, info.num_classes, "of files")


def _read_file(record: Record) -> Example:
    """Returns an encoded image, read now from a file of its own, and its label."""
    return import_tensorflow().io.read_file(record["file"]), record["label"]


def _parser(reader: SplitReader) -> Callable[[Record], Example]:
    return lambda record: reader.parse(record["record"])


def _eval_decoder(
    image: Callable[[tf.Tensor], tf.Tensor],
    parse: Callable[[Record], Example],
    info: DatasetInfo,
    skip: bool,
) -> Callable[[Record], Record]:
    def decode(record: Record) -> Example:
        encoded, label = parse(record)
        return image(encoded), label

    return _decoder(decode, info, skip)


def _decoder(
    decode: Callable[[Record], Example], info: DatasetInfo, skip: bool
) -> Callable[[Record], Record]:
    """Returns a function from a record to an example of a batch, with a decoded image.

    Args:
      decode: returns an image uint8 [H, W, C] and its label, int64.
      info: from `describe`.
      skip: whether what `decode` can't decode is black, and named in "damaged".
    """
    tf = import_tensorflow()
    or_black = example_or_black(decode, info.image_shape)

    def example(record: Record) -> Record:
        found = {}
        if skip:
            image, label, whole = or_black(record)
            name = record["file"] if "file" in record else tf.strings.as_string(record["index"])
            found["damaged"] = tf.where(whole, "", name)
        else:
            image, label = decode(record)
        found |= {"image": image, "label": tf.cast(label, tf.int32)}
        if "epoch" in record:
            found["epoch"] = tf.cast(record["epoch"], tf.int32)
            found["index"] = tf.cast(tf.maximum(record["index"], LOST), tf.int32)
        return found

    return example


def _decoded(records: tf.data.Dataset, decode: Callable, batch_size: int) -> tf.data.Dataset:
    tf = import_tensorflow()
    images = records.map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return images.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def _shuffle_buffer(builder: tfds.core.DatasetBuilder, split: str) -> int:
    """Returns how many encoded images of average size fit into SHUFFLE_BYTES, N at most."""
    stored = builder.info.splits.values()
    total = sum(part.num_examples for part in stored)
    bytes_each = max(1, sum(part.num_bytes for part in stored) // total)
    return min(builder.info.splits[split].num_examples, SHUFFLE_BYTES // bytes_each)
