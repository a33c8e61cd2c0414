"""Small prepared splits, read without TensorFlow, because its import takes longer than reading.

Only undamaged files are read here: TFRecord files on this machine, with whole records of whole PNGs
of 8 bits in the stated shape. PNG is lossless, so the pixels are equal to TensorFlow's. TensorFlow
reads everything else, and reports damage.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import numpy as np

from aggnets_jax.data.dataset_info import Split, feature_keys
from aggnets_jax.data.records import leave_images_encoded

# Limit for all files of a split. Python checks the checksums of about 8 MB in a second.
SMALL_BYTES = 4 << 20

# Bit depth and colour type in the header of a PNG, by the channels of its images.
_FORMS = {1: b"\x08\x00", 3: b"\x08\x02"}


def is_small(split: Split) -> bool:
    """Return whether a split's files exist, are small, and have the form that can be read here."""
    form = split.builder.info.file_format
    if split.info.image_shape[-1] not in _FORMS or form is None or form.value != "tfrecord":
        return False
    try:
        return sum(map(os.path.getsize, {piece.filename for piece in split.pieces})) <= SMALL_BYTES
    except OSError:  # on another machine, or missing
        return False


def read_small(split: Split) -> tuple[np.ndarray, np.ndarray] | None:
    """Read all images, uint8 [N, H, W, C], and labels, int32 [N], of a small split in order.

    The images are not resized, and `is_small` is true. None if anything is damaged or of another
    form.
    """
    try:
        images, labels = zip(*_examples(split), strict=True)
    except Exception:  # any: TensorFlow meets the same problem and reports it
        return None
    return np.stack(images), np.array(labels, np.int32)


def _examples(split: Split) -> Iterator[tuple[np.ndarray, int]]:
    image, label = feature_keys(split.builder)
    decoders = leave_images_encoded(split.builder)
    for piece in split.pieces:
        for record in _records(piece.filename, piece.skip, piece.take):
            example = split.builder.info.features.deserialize_example_np(record, decoders=decoders)
            if not 0 <= example[label] < split.info.num_classes:
                raise ValueError("an example without a label")
            yield _decoded(example[image], split.info.image_shape), example[label]


def _records(file: str, skip: int, take: int) -> Iterator[bytes]:
    """Yield the records of a piece of a file; raise an error if one is damaged or missing."""
    # TensorBoard's own reader, which it uses where TensorFlow is not installed.
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

    reader = PyRecordReader_New(file)
    with reader.file_handle:
        for place in range(skip + take):
            reader.GetNext()
            if place >= skip:
                yield reader.record()


def _decoded(png: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """Decode a PNG; raise an error if it is damaged, another file or of another form."""
    from PIL import Image

    Image.open(io.BytesIO(png), formats=["PNG"]).verify()  # decoding does not check all checksums
    image = Image.open(io.BytesIO(png), formats=["PNG"])
    height, width, channels = shape
    if png[24:26] != _FORMS[channels] or image.size != (width, height) or image.info:
        raise ValueError("another form")
    return np.asarray(image).reshape(shape)
