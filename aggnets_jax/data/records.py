"""Stored examples in TFDS's files: ranges of a split's records, with images still encoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from aggnets_jax.data.dataset_info import Split, feature_keys
from aggnets_jax.data.tf_runtime import import_tensorflow
from aggnets_jax.errors import UserError, one_line

if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_datasets as tfds


class SplitReader:
    """Reader of ranges of a split's records, which opens no file outside the range.

    A split is a list of pieces of files, read one after the other. A file may hold several, as in
    "train[:40%]+train[60%:]". The constructor checks that the files exist, but reads none.

    Attributes:
      num_examples: examples in the split.
      num_files: files that hold some of them.
    """

    def __init__(self, split: Split) -> None:
        pieces = split.pieces
        check_files([epath.Path(piece.filename) for piece in pieces])
        self.num_examples = sum(piece.take for piece in pieces)
        self.num_files = len({piece.filename for piece in pieces})
        self._split = split
        self._files = [str(piece.filename) for piece in pieces]
        self._skips = np.array([piece.skip for piece in pieces], np.int64)
        # Twice, for ranges that wrap around the end of the split.
        self._starts = np.cumsum([0, *(piece.take for _ in range(2) for piece in pieces)])

    def read(
        self, start: int | tf.Tensor, count: int | tf.Tensor, seed: tf.Tensor | None = None
    ) -> tf.data.Dataset:
        """Return the records of a range, which wraps around the end of the split.

        Args:
          start: index of the first record, int64.
          count: number of records, at most `num_examples`, int64.
          seed: seed of the order of the range's files, int64 [2]; None reads them in order.

        Returns:
          Scalars: "record", bytes, and "index", the number in the split, int64. If the split skips
          damage, a record that can't be read has ~index instead, which is negative; so have the
          records after it in its file and in the range.
        """
        tf = import_tensorflow()
        start = tf.convert_to_tensor(start, tf.int64)
        end = start + count
        first = tf.searchsorted(self._starts, [start], side="right")[0] - 1
        pieces = tf.range(first, tf.searchsorted(self._starts, [end])[0])
        if seed is not None:
            pieces = tf.random.experimental.stateless_shuffle(pieces, seed=seed)
        files, skips = tf.constant(self._files), tf.constant(self._skips)
        starts = tf.constant(self._starts)

        # AutoGraph can't convert TFDS's readers, and need not.
        @tf.autograph.experimental.do_not_convert
        def part(piece: tf.Tensor) -> tf.data.Dataset:
            begin = tf.maximum(start, starts[piece])
            number = piece % len(self._files)
            skip = skips[number] + begin - starts[piece]
            take = tf.minimum(end, starts[piece + 1]) - begin
            records = self._read_part(files[number], skip, take)
            return records.enumerate(begin % self.num_examples).map(_numbered)

        return tf.data.Dataset.from_tensor_slices(pieces).flat_map(part)

    def parse(self, record: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the encoded image and the label, int64, of a record from `read`."""
        return parse(self._split.builder, record["record"])

    def _read_part(self, file: tf.Tensor, skip: tf.Tensor, take: tf.Tensor) -> tf.data.Dataset:
        """Return exactly `take` pairs: a record, and whether it could be read."""
        tf = import_tensorflow()
        records = read_file(self._split.builder, file).skip(skip).take(take)
        if not self._split.skip:
            records = records.map(lambda record: (record, True))
            return records.apply(tf.data.experimental.assert_cardinality(take))
        # An error ends a file; a missing file would fail forever, so the number of tries is finite.
        tries = tf.data.Dataset.range(take + 1)
        readable = tf.data.Dataset.zip(tries, records).ignore_errors()
        lost = tf.data.Dataset.from_tensors(("", False)).repeat(take)
        return readable.map(lambda _, record: (record, True)).concatenate(lost).take(take)


def _numbered(index: tf.Tensor, record: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
    content, readable = record
    return {"record": content, "index": import_tensorflow().where(readable, index, ~index)}


def read_file(builder: tfds.core.DatasetBuilder, file: str | tf.Tensor) -> tf.data.Dataset:
    """Return the records of one of a data set's files, in any format of TFDS, as bytes."""
    from tensorflow_datasets.core import file_adapters

    form = builder.info.file_format or file_adapters.DEFAULT_FILE_FORMAT
    return file_adapters.ADAPTER_FOR_FORMAT[form].make_tf_data(file)


def parse(builder: tfds.core.DatasetBuilder, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the encoded image and the label, int64, of a record."""
    image, label = feature_keys(builder)
    decoders = leave_images_encoded(builder)
    example = builder.info.features.deserialize_example(record, decoders=decoders)
    return example[image], example[label]


def leave_images_encoded(builder: tfds.core.DatasetBuilder) -> dict[str, Any]:
    """Return TFDS decoders that leave images encoded, because decoding them is expensive.

    PartialDecoding, which would leave out the other features, too, makes TFDS warn at every call of
    its own use of a deprecated attribute.
    """
    import tensorflow_datasets as tfds

    return {
        key: tfds.decode.SkipDecoding()
        for key, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }


def check_files(files: Sequence[epath.Path]) -> None:
    """Raise `UserError` if one of the files is not there."""
    tf = import_tensorflow()
    for folder in {file.parent for file in files}:
        try:
            there = {file.name for file in folder.iterdir()}
        except (OSError, tf.errors.OpError) as error:
            raise UserError(f"{folder} can't be read: {one_line(error)}") from error
        for file in files:
            if file.parent == folder and file.name not in there:
                raise UserError(f"{file} is not there")


def check_labels(labels: np.ndarray, num_classes: int, split: str) -> None:
    """Raise `UserError` if an example has no label, as in the test splits of competitions."""
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise UserError(
            f"split {split!r} has examples without a label between 0 and {num_classes - 1}, such as"
            f" {wrong[0]}; choose another split"
        )


def check_classes(labels: np.ndarray, split: str) -> None:
    """Raise `UserError` if all examples have the same label; negative labels do not count."""
    present = np.unique(labels[labels >= 0])
    if len(present) < 2:
        raise UserError(
            f"split {split!r} has images of {len(present)} class(es); training needs two or more"
        )
