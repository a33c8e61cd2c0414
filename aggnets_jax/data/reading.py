"""Stored examples, as TFDS reads them: images still encoded, in a known order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from aggnets_jax.data.info import feature_keys
from aggnets_jax.data.tf_runtime import import_tensorflow
from aggnets_jax.errors import UserError, one_line

if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_datasets as tfds

JPEG_TRANSFORM = "INTEGER_ACCURATE"


def read_encoded(
    builder: tfds.core.DatasetBuilder,
    split: str,
    *,
    fill_up: bool,
    shuffle_files: bool = False,
    **read_options: Any,
) -> tf.data.Dataset:
    """Returns a split's examples: "image" (encoded), "label" (int64) and "tfds_id", all scalars.

    Args:
      builder: of a prepared image classification set.
      split: TFDS split, slices included.
      fill_up: whether examples with the images "" and the ids "__0", "__1", ... come last, instead
        of as many that can't be read.
      shuffle_files: whether the order of the files is shuffled.
      **read_options: for `tfds.ReadConfig`.

    Raises:
      UserError: a file is not there.
    """
    import_tensorflow()
    import tensorflow_datasets as tfds

    instructions = builder.info.splits[split].file_instructions
    _check_files([epath.Path(instruction.filename) for instruction in instructions])
    examples = builder.as_dataset(
        split=split,
        shuffle_files=shuffle_files,
        decoders=_decoders(builder),
        read_config=tfds.ReadConfig(
            try_autocache=False,
            skip_prefetch=True,
            enable_ordering_guard=False,  # the few sets stored in an order are shuffled as well
            assert_cardinality=not fill_up,
            add_tfds_id=True,
            **read_options,
        ),
    )
    image, label = feature_keys(builder)
    examples = examples.map(
        lambda example: {
            "image": example[image],
            "label": example[label],
            "tfds_id": example["tfds_id"],
        }
    )
    if not fill_up:
        return examples
    # What is left of a file after a damaged record is one error.
    return _filled_up(examples, builder.info.splits[split].num_examples, len(instructions))


def read_in_order(
    builder: tfds.core.DatasetBuilder, split: str, *, fill_up: bool
) -> tf.data.Dataset:
    """Returns a split's examples, see `read_encoded`, one file after the other."""
    return read_encoded(builder, split, fill_up=fill_up, interleave_cycle_length=1)


def read_images(builder: tfds.core.DatasetBuilder, file: str) -> tf.data.Dataset:
    """Returns the encoded images of one of a data set's files."""
    from tensorflow_datasets.core import file_adapters

    read = file_adapters.ADAPTER_FOR_FORMAT[builder.info.file_format].make_tf_data
    image, _ = feature_keys(builder)
    decoders = _decoders(builder)
    return read(file).map(
        lambda record: builder.info.features.deserialize_example(record, decoders=decoders)[image]
    )


def _decoders(builder: tfds.core.DatasetBuilder) -> dict[str, Any]:
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


def _filled_up(examples: tf.data.Dataset, count: int, errors: int) -> tf.data.Dataset:
    tf = import_tensorflow()
    # As many tries as there may be examples and errors: a file that is gone would fail for ever.
    tries = tf.data.Dataset.range(count + errors)
    readable = tf.data.Dataset.zip(tries, examples).ignore_errors().map(lambda _, example: example)
    lost = tf.data.Dataset.range(count).map(
        lambda number: {
            "image": tf.constant(""),
            "label": tf.constant(0, tf.int64),
            "tfds_id": tf.strings.join(["__", tf.strings.as_string(number)]),
        }
    )
    return readable.concatenate(lost).take(count)


def image_decoder(channels: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function from an encoded image to uint8 [H, W, C], to be used inside tf.data.

    JPEG, PNG, GIF (the first picture) and BMP, whatever the channels of the file: colours become
    grey, grey and palettes become colours, and transparency is dropped.

    Args:
      channels: C, 1 for grey and 3 for red, green, blue.
    """
    tf = import_tensorflow()
    # Grey is made of colours, for TensorFlow decodes no GIF, BMP or CMYK JPEG to one channel.
    stored = 3 if channels == 1 else channels

    def decode(encoded: tf.Tensor) -> tf.Tensor:
        # TensorFlow itself would choose the approximate transform for JPEGs; PIL, with which most
        # published networks were trained, uses the accurate one.
        image = tf.cond(
            tf.io.is_jpeg(encoded),
            lambda: tf.io.decode_jpeg(encoded, stored, dct_method=JPEG_TRANSFORM),
            lambda: tf.io.decode_image(encoded, stored, expand_animations=False),
        )
        return tf.ensure_shape(image, (None, None, stored))

    def decode_grey(encoded: tf.Tensor) -> tf.Tensor:
        return tf.image.rgb_to_grayscale(decode(encoded))

    return decode_grey if channels == 1 else decode


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
