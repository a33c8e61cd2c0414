"""Small prepared sets, read without TensorFlow, whose import takes longer than all of them.

Only what is in perfect order: TFRecord files on this machine with whole records, and in them whole
PNGs of 8 bits, each of the shape that the set states. PNG is lossless, so these are the bytes that
TensorFlow decodes. Whatever else there is, TensorFlow reads, and says what is wrong.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from aggnets_jax.data.dataset_info import DatasetInfo, feature_keys
from aggnets_jax.data.records import leaving_images_encoded

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

# Of a split's files. Python computes the checksums of some 8 MB in a second.
SMALL_BYTES = 4 << 20

# Bit depth and colour type in the header of a PNG, by the channels of its images.
_FORMS = {1: b"\x08\x00", 3: b"\x08\x02"}


def is_small(builder: tfds.core.DatasetBuilder, info: DatasetInfo, split: str) -> bool:
    """Tell whether a split's files are there, small, and of the form that can be read here.

    Args:
      builder: of a prepared data set.
      info: from `describe`, of images that are not resized.
      split: TFDS split, slices included.
    """
    form = builder.info.file_format
    if info.image_shape[-1] not in _FORMS or form is None or form.value != "tfrecord":
        return False
    files = {piece.filename for piece in builder.info.splits[split].file_instructions}
    try:
        return sum(map(os.path.getsize, files)) <= SMALL_BYTES
    except OSError:  # on another machine, or not there
        return False


def read_small(
    builder: tfds.core.DatasetBuilder, info: DatasetInfo, split: str
) -> tuple[np.ndarray, np.ndarray] | None:
    """Read all images, uint8 [N, H, W, C], and labels, int32 [N], of a small split in order.

    Args:
      builder: of a prepared image classification set.
      info: from `describe`.
      split: for which `is_small` holds.

    Returns:
      None if the split is not in perfect order.
    """
    try:
        pieces = builder.info.splits[split].file_instructions
        records = (record for p in pieces for record in _records(p.filename, p.skip, p.take))
        images, labels = zip(*_examples(builder, info, records), strict=True)
    except Exception:  # of anybody's; TensorFlow meets the same, and what it says is told
        return None
    return np.stack(images), np.array(labels, np.int32)


def _records(file: str, skip: int, take: int) -> Iterator[bytes]:
    """Yield the records of a piece of a file; raises an error if one is damaged or missing."""
    # TensorBoard's own reader for when there is no TensorFlow.
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

    reader = PyRecordReader_New(file)
    with reader.file_handle:
        for place in range(skip + take):
            reader.GetNext()
            if place >= skip:
                yield reader.record()


def _examples(
    builder: tfds.core.DatasetBuilder, info: DatasetInfo, records: Iterator[bytes]
) -> Iterator[tuple[np.ndarray, int]]:
    image, label = feature_keys(builder)
    decoders = leaving_images_encoded(builder)
    for record in records:
        example = builder.info.features.deserialize_example_np(record, decoders=decoders)
        if not 0 <= example[label] < info.num_classes:
            raise ValueError("an example without a label")
        yield _decoded(example[image], info.image_shape), example[label]


def _decoded(png: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """Decode a PNG; raises an error if it is another file, damaged, or of another form."""
    from PIL import Image

    Image.open(io.BytesIO(png), formats=["PNG"]).verify()  # else not all checksums are looked at
    image = Image.open(io.BytesIO(png), formats=["PNG"])
    height, width, channels = shape
    if png[24:26] != _FORMS[channels] or image.size != (width, height) or image.info:
        raise ValueError("another form")
    return np.asarray(image).reshape(shape)
