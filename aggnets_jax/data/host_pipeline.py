"""The host's pipelines, from stored examples to batches of uint8 images in memory.

    stored records in the order of their batches   record_order, records, image_folder, examples
    encoded image -> uint8 image of one size        decoding
    damaged images, reported or skipped             damage
    batches of this process's rows                  HostBatches

The order of an epoch is a function of (seed, epoch), see `record_order`; crops are a function of
(seed, epoch, index).
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from aggnets_jax.data.array_records import ArrayRecords, is_array_record
from aggnets_jax.data.damage import (
    SKIPPED,
    ExampleDamage,
    FileDamage,
    Record,
    RecordDamage,
    decode_or_blank,
    naming,
)
from aggnets_jax.data.dataset_info import DatasetInfo, Split
from aggnets_jax.data.decoding import eval_image, train_image
from aggnets_jax.data.examples import Examples, reader_of
from aggnets_jax.data.image_folder import IMAGE_FOLDER, list_examples
from aggnets_jax.data.record_order import (
    BatchRows,
    eval_files,
    eval_numbers,
    eval_records,
    repeated,
    train_files,
    train_numbers,
    train_records,
)
from aggnets_jax.data.records import SplitReader, check_classes, check_labels
from aggnets_jax.data.small_splits import is_small, read_small
from aggnets_jax.data.sources import Source
from aggnets_jax.data.tf_runtime import import_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf

# Encoded images in the shuffle buffers of all streams together.
SHUFFLE_BYTES = 1 << 30
# Images in each batch when a whole split is loaded.
DECODE_BATCH = 512
# The index in a batch of an example that is lost because its file is damaged.
LOST = -1
# How many damaged images are named in messages.
_NAMED = 100

HostBatch = dict[str, np.ndarray]


class HostBatches:
    """Batches in the memory of this process, with its rows only; each pass reads them again.

    A batch has "image" uint8 [R, H, W, C] and "label" int32 [R], and in training "epoch" and
    "index" int32 [R]; the last may be smaller. Iteration raises UserError at an image that can't be
    read, or is damaged and not skipped.

    Args:
      split: split of the examples; for files without a data set, only its `info` counts.
      records: records in the rows of this process, with a "file" or an "index", and in training
        "epoch" and "index": scalars.
      parse: function from a record to its encoded image and its label, int64.
      damage: search for damaged images.
      rows: the rows of this process.
      image: function from an encoded image and its record to uint8 [H, W, C].
    """

    def __init__(
        self,
        split: Split,
        records: tf.data.Dataset,
        parse: Callable[[Record], tuple[tf.Tensor, tf.Tensor]],
        damage: FileDamage | RecordDamage | ExampleDamage,
        rows: BatchRows,
        image: Callable[[tf.Tensor, Record], tf.Tensor],
    ) -> None:
        tf = import_tensorflow()
        black = tf.zeros(split.info.image_shape, tf.uint8)

        def decode(record: Record) -> Record:
            encoded, label = parse(record)
            return {"image": image(encoded, record), "label": label}

        blank = {"image": black, "label": tf.constant(SKIPPED, tf.int64)}
        decoded_or_blank = decode_or_blank(decode, blank)

        def example(record: Record) -> Record:
            if split.skip:  # "damaged" is empty, or the file or index of an image that is now black
                found, whole = decoded_or_blank(record)
                name = record["file"] if "file" in record else tf.strings.as_string(record["index"])
                found["damaged"] = tf.where(whole, "", name)
            else:
                found = decode(record)
            found["label"] = tf.cast(found["label"], tf.int32)
            if "epoch" in record:
                found["epoch"] = tf.cast(record["epoch"], tf.int32)
                found["index"] = tf.cast(tf.maximum(record["index"], LOST), tf.int32)
            return found

        examples = records.map(example, tf.data.AUTOTUNE, deterministic=True)
        self._dataset = examples.batch(len(rows.held)).prefetch(tf.data.AUTOTUNE)
        self._split = split
        self._damage = damage
        self._message = functools.cache(damage.message)
        self._printed: set[str] = set()

    def __iter__(self) -> Iterator[HostBatch]:
        with naming(self._damage, self._split):
            for batch in self._dataset.as_numpy_iterator():
                damaged = batch.pop("damaged", None)
                stored = batch["label"]
                if damaged is not None:
                    stored = stored[damaged == b""]
                    self._print(damaged[damaged != b""])
                check_labels(stored, self._split.info.num_classes, self._split.name)
                yield batch

    def _print(self, damaged: np.ndarray) -> None:
        """Name each damaged image once, and only the first `_NAMED`."""
        for identity in damaged:
            if len(self._printed) > _NAMED:
                return
            message = self._message(os.fsdecode(identity))
            if message not in self._printed:
                self._printed.add(message)
                message = message if len(self._printed) <= _NAMED else "more images, not named"
                print(f"skipped: {message}", file=sys.stderr, flush=True)


def train_dataset(
    split: Split, rows: BatchRows, repeats: int = 1, *, seed: int, start_step: int
) -> HostBatches:
    """Return the endless training batches from a step on, with "epoch" and "index".

    A process reads the streams of its rows, see `record_order`, or the files of its rows. Batches
    do not depend on the number of processes. Earlier examples of the first step's epoch are passed
    over without decoding. The index is LOST for an example that is lost because its file is
    damaged. `repeats` is as for `ResidentData`.
    """
    once = rows if repeats == 1 else rows.of_repeated(repeats)
    info, order = split.info, {"seed": seed, "start_step": start_step}
    crop = train_image(info, seed)

    def image(encoded: tf.Tensor, record: Record) -> tf.Tensor:
        return crop(encoded, record["epoch"], record["index"])

    if info.name == IMAGE_FOLDER:
        files, labels = list_examples(split.builder, split.name, info.class_names)
        check_classes(labels, split.name)
        records = repeated(train_files(files, labels, once, **order), once, rows, repeats)
        return _file_batches(split, files, records, rows, image)
    if (examples := _numbered_examples(split)) is not None:
        if examples.labels is not None:
            check_classes(examples.labels, split.name)
        records = repeated(train_numbers(len(examples), once, **order), once, rows, repeats)
        return _example_batches(split, examples, records, rows, image)
    reader = SplitReader(split)
    records = train_records(reader, once, buffer_size=_shuffle_buffer(split), **order)
    records = repeated(records, once, rows, repeats)
    return HostBatches(split, records, reader.parse, RecordDamage(split), rows, image)


def eval_dataset(split: Split, rows: BatchRows) -> Callable[[], Iterator[HostBatch]]:
    """Return a function that begins a pass over some rows of the batches of a split in order.

    A small, undamaged split on this machine is read without TensorFlow.
    """
    if not (split.info.resident and is_small(split)):
        return _eval_dataset(split, rows).__iter__

    def batches() -> Iterator[HostBatch]:
        if (small := read_small(split)) is None:
            yield from _eval_dataset(split, rows)
            return
        images, labels = small
        for start in range(0, len(labels), rows.batch_size):
            held = start + rows.held
            held = held[held < len(labels)]
            if len(held):  # the last batch may end before the rows
                yield {"image": images[held], "label": labels[held]}

    return batches


def _eval_dataset(split: Split, rows: BatchRows) -> HostBatches:
    info = split.info
    whole = dataclasses.replace(info, resized=False) if split.whole else info
    crop = eval_image(whole, any_size=split.whole)

    def image(encoded: tf.Tensor, record: Record) -> tf.Tensor:
        return crop(encoded)

    if info.name == IMAGE_FOLDER:
        files, labels = list_examples(split.builder, split.name, info.class_names)
        return _file_batches(split, files, eval_files(files, labels, rows), rows, image)
    if (examples := _numbered_examples(split)) is not None:
        records = eval_numbers(len(examples), rows)
        return _example_batches(split, examples, records, rows, image)
    reader = SplitReader(split)
    damage = RecordDamage(split)
    return HostBatches(split, eval_records(reader, rows), reader.parse, damage, rows, image)


def load_split(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Return all images, uint8 [N, H, W, C], and labels, int32 [N], of a split in order.

    The images are not resized. Raise `UserError` as `HostBatches`, or if all are of one class.
    """
    count = split.num_examples
    images = np.empty((count, *split.info.image_shape), np.uint8)
    labels = np.empty(count, np.int32)
    batches = eval_dataset(split, BatchRows(DECODE_BATCH, np.arange(DECODE_BATCH)))()
    for start, batch in zip(range(0, count, DECODE_BATCH), batches, strict=True):
        part = slice(start, start + DECODE_BATCH)
        images[part], labels[part] = batch["image"], batch["label"]
    check_classes(labels, split.name)
    return images, labels


def file_dataset(files: Sequence[str], info: DatasetInfo, rows: BatchRows) -> HostBatches:
    """Return the batches of image files, with labels of zero, for `file_batches`."""
    records = eval_files(files, np.zeros(len(files), np.int64), rows)
    crop, split = eval_image(info, any_size=True), Split(None, info, "of files")
    return _file_batches(split, files, records, rows, lambda encoded, _: crop(encoded))


def _numbered_examples(split: Split) -> Examples | None:
    """Return the examples of a split that can be read in any order, else None."""
    if isinstance(split.builder, Source):
        return split.builder.select(split.name)
    return ArrayRecords(split) if is_array_record(split) else None


def _example_batches(
    split: Split, examples: Examples, records: tf.data.Dataset, rows: BatchRows, image: Callable
) -> HostBatches:
    damage = ExampleDamage(examples, split.info)
    return HostBatches(split, records, reader_of(examples), damage, rows, image)


def _file_batches(
    split: Split, files: Sequence[str], records: tf.data.Dataset, rows: BatchRows, image: Callable
) -> HostBatches:
    def parse(record: Record) -> tuple[tf.Tensor, tf.Tensor]:
        return import_tensorflow().io.read_file(record["file"]), record["label"]

    damage = FileDamage(files, split.info.image_shape[-1])
    return HostBatches(split, records, parse, damage, rows, image)


def _shuffle_buffer(split: Split) -> int:
    """Return how many encoded images of average size fit into SHUFFLE_BYTES, at most N."""
    stored = split.builder.info.splits.values()
    total = sum(part.num_examples for part in stored)
    bytes_each = max(1, sum(part.num_bytes for part in stored) // total)
    return min(split.num_examples, SHUFFLE_BYTES // bytes_each)
