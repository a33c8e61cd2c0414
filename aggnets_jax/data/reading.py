"""Stored examples, as TFDS reads them: images still encoded, in a known order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from aggnets_jax.data.info import feature_keys
from aggnets_jax.data.tf_runtime import import_tensorflow
from aggnets_jax.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_datasets as tfds

DECODE_BATCH = 512
JPEG_TRANSFORM = "INTEGER_ACCURATE"


def read_encoded(
    builder: tfds.core.DatasetBuilder,
    split: str,
    *,
    shuffle_files: bool = False,
    **read_options: Any,
) -> tf.data.Dataset:
    """Returns a split's examples: "image" (scalar string, encoded) and "label" (scalar int64).

    With `add_tfds_id` among the options also TFDS's own "tfds_id" (scalar string).

    Args:
      builder: of a prepared image classification set.
      split: TFDS split, slices included.
      shuffle_files: whether the order of the files is shuffled.
      **read_options: for `tfds.ReadConfig`.
    """
    import_tensorflow()
    import tensorflow_datasets as tfds

    image, label = feature_keys(builder)
    # Images are the dear ones. Leaving out the other features altogether, with PartialDecoding,
    # makes TFDS warn of its own use of a deprecated attribute at every call.
    decoders = {
        key: tfds.decode.SkipDecoding()
        for key, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    examples = builder.as_dataset(
        split=split,
        shuffle_files=shuffle_files,
        decoders=decoders,
        read_config=tfds.ReadConfig(
            try_autocache=False,
            skip_prefetch=True,
            enable_ordering_guard=False,  # the few sets stored in an order are shuffled as well
            **read_options,
        ),
    )

    def select(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        ids = {key: example[key] for key in ("tfds_id",) if key in example}
        return {"image": example[image], "label": example[label], **ids}

    return examples.map(select)


def read_in_order(builder: tfds.core.DatasetBuilder, split: str) -> tf.data.Dataset:
    """Returns a split's examples, see `read_encoded`, one file after the other."""
    return read_encoded(builder, split, interleave_cycle_length=1)


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


def check_files(files: Sequence[str], channels: int) -> None:
    """Raises UserError, naming the file, if one cannot be read or is no image."""
    tf = import_tensorflow()
    decode = image_decoder(channels)
    sizes = tf.data.Dataset.from_tensor_slices(files).map(
        lambda file: tf.size(decode(tf.io.read_file(file))), num_parallel_calls=tf.data.AUTOTUNE
    )
    sizes = sizes.as_numpy_iterator()
    for file in files:
        try:
            next(sizes)
        except tf.errors.InvalidArgumentError as error:
            raise UserError(f"{file} is damaged, or no JPEG, PNG, GIF or BMP") from error
        except tf.errors.OpError as error:
            raise UserError(f"{file} can't be read ({type(error).__name__})") from error


def load_split(
    builder: tfds.core.DatasetBuilder, split: str, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns all images, uint8 [N, H, W, C], and labels, int32 [N], in reading order."""
    tf = import_tensorflow()
    shape = builder.info.features[feature_keys(builder)[0]].shape
    decode = image_decoder(shape[-1])
    count = builder.info.splits[split].num_examples
    images = np.empty((count, *shape), np.uint8)
    labels = np.empty(count, np.int32)
    decoded = read_in_order(builder, split).map(
        lambda example: (decode(example["image"]), example["label"]),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    start = 0
    for some_images, some_labels in decoded.batch(DECODE_BATCH).as_numpy_iterator():
        end = start + len(some_images)
        images[start:end], labels[start:end] = some_images, some_labels
        start = end
    check_labels(labels, num_classes, split)
    return images, labels


def check_labels(labels: np.ndarray, num_classes: int, split: str) -> None:
    """Raises UserError if an example has no label, as in the test splits of competitions."""
    if np.any((labels < 0) | (labels >= num_classes)):
        raise UserError(
            f"split {split!r} has examples without a label between 0 and {num_classes - 1}; "
            "choose another split"
        )
