"""Stored examples, in the files that TFDS writes: ranges of records, images still encoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from aggnets_jax.data.dataset_info import feature_keys
from aggnets_jax.data.tf_runtime import import_tensorflow
from aggnets_jax.errors import UserError, one_line

if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_datasets as tfds


class SplitReader:
    """Reads any range of a split's records, and opens no file that holds nothing of it.

    A split is a list of pieces of files, read one after the other. A file may hold several, as in
    "train[:40%]+train[60%:]".

    Attributes:
      num_examples: of the split.
      num_files: that hold some of them.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str, *, fill_up: bool) -> None:
        """Reads no file.

        Args:
          builder: of a prepared image classification set.
          split: TFDS split, slices included.
          fill_up: whether records that can't be read come all the same, see `read`.

        Raises:
          UserError: a file is not there.
        """
        pieces = builder.info.splits[split].file_instructions
        _check_files([epath.Path(piece.filename) for piece in pieces])
        self.num_examples = sum(piece.take for piece in pieces)
        self.num_files = len({piece.filename for piece in pieces})
        self._builder = builder
        self._fill_up = fill_up
        self._files = [str(piece.filename) for piece in pieces]
        self._skips = np.array([piece.skip for piece in pieces], np.int64)
        # Twice, for ranges that go on at the split's beginning.
        self._starts = np.cumsum([0, *(piece.take for _ in range(2) for piece in pieces)])

    def read(
        self, start: int | tf.Tensor, count: int | tf.Tensor, seed: tf.Tensor | None = None
    ) -> tf.data.Dataset:
        """Returns the records of a range, which goes on with the first behind the last.

        Args:
          start: the index of its first record, int64.
          count: of records, N at most, int64.
          seed: int64 [2], shuffles the files of the range; without it they are read in order.

        Returns:
          "record", for `parse`, and "index" int64, its number in the split, as scalars. With
          `fill_up`, a record that can't be read has ~index instead, which is negative. What
          follows it in its file and in the range can't be read either.
        """
        # TFDS's readers do not pass through AutoGraph, and have nothing for it to convert.
        tf = import_tensorflow()
        start = tf.convert_to_tensor(start, tf.int64)
        end = start + count
        first = tf.searchsorted(self._starts, [start], side="right")[0] - 1
        pieces = tf.range(first, tf.searchsorted(self._starts, [end])[0])
        if seed is not None:
            pieces = tf.random.experimental.stateless_shuffle(pieces, seed=seed)
        files, skips = tf.constant(self._files), tf.constant(self._skips)
        starts = tf.constant(self._starts)

        @tf.autograph.experimental.do_not_convert
        def part(piece: tf.Tensor) -> tf.data.Dataset:
            begin = tf.maximum(start, starts[piece])
            number = piece % len(self._files)
            skip = skips[number] + begin - starts[piece]
            take = tf.minimum(end, starts[piece + 1]) - begin
            records = self._read_file(files[number], skip, take)
            return records.enumerate(begin % self.num_examples).map(_numbered)

        return tf.data.Dataset.from_tensor_slices(pieces).flat_map(part)

    def parse(self, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the encoded image and the label, int64, of a record that could be read."""
        image, label = feature_keys(self._builder)
        example = self._builder.info.features.deserialize_example(
            record, decoders=leaving_images_encoded(self._builder)
        )
        return example[image], example[label]

    def _read_file(self, file: tf.Tensor, skip: tf.Tensor, take: tf.Tensor) -> tf.data.Dataset:
        """Returns exactly `take` pairs: a record, and whether it could be read."""
        tf = import_tensorflow()
        records = _raw(self._builder, file).skip(skip).take(take)
        if not self._fill_up:
            records = records.map(lambda record: (record, True))
            return records.apply(tf.data.experimental.assert_cardinality(take))
        # An error ends a file, and is one more try; a file that is gone would fail for ever.
        tries = tf.data.Dataset.range(take + 1)
        readable = tf.data.Dataset.zip(tries, records).ignore_errors()
        lost = tf.data.Dataset.from_tensors(("", False)).repeat(take)
        return readable.map(lambda _, record: (record, True)).concatenate(lost).take(take)


def _numbered(index: tf.Tensor, record: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
    content, readable = record
    return {"record": content, "index": import_tensorflow().where(readable, index, ~index)}


def read_images(builder: tfds.core.DatasetBuilder, file: str) -> tf.data.Dataset:
    """Returns the encoded images of one of a data set's files."""
    image, _ = feature_keys(builder)
    decoders = leaving_images_encoded(builder)
    return _raw(builder, file).map(
        lambda record: builder.info.features.deserialize_example(record, decoders=decoders)[image]
    )


def _raw(builder: tfds.core.DatasetBuilder, file: str | tf.Tensor) -> tf.data.Dataset:
    """Returns the records of a file, whatever its format, as bytes."""
    from tensorflow_datasets.core import file_adapters

    form = builder.info.file_format or file_adapters.DEFAULT_FILE_FORMAT
    return file_adapters.ADAPTER_FOR_FORMAT[form].make_tf_data(file)


def leaving_images_encoded(builder: tfds.core.DatasetBuilder) -> dict[str, Any]:
    """Returns those that leave images encoded, which are the dear ones.

    Leaving out the other features altogether, with PartialDecoding, makes TFDS warn of its own use
    of a deprecated attribute at every call.
    """
    import tensorflow_datasets as tfds

    return {
        key: tfds.decode.SkipDecoding()
        for key, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }


def _check_files(files: Sequence[epath.Path]) -> None:
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
    """Raises UserError if an example has no label, as in the test splits of competitions."""
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise UserError(
            f"split {split!r} has examples without a label between 0 and {num_classes - 1}, such as"
            f" {wrong[0]}; choose another split"
        )


def check_classes(labels: np.ndarray, split: str) -> None:
    """Raises UserError if all examples have the same label; those below 0 do not count."""
    present = np.unique(labels[labels >= 0])
    if len(present) < 2:
        raise UserError(
            f"split {split!r} has images of {len(present)} class(es); training needs two or more"
        )
