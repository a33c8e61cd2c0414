"""Ways to damage prepared data sets and files."""

import io
import shutil
import struct

import numpy as np
from PIL import Image

from aggnets_jax.data.tf_runtime import import_tensorflow


def copy_of(data_dir, to):
    """Copy the prepared data sets in a directory, without the official files."""
    shutil.copytree(data_dir, to, ignore=shutil.ignore_patterns("official_*", "downloads"))
    return to


def shard(data_dir, split, number):
    """Return the file of a split with this number."""
    return sorted(data_dir.rglob(f"*-{split}.tfrecord-*"))[number]


def places(file):
    """Return the places where the records of a file begin, and its end."""
    data, found = file.read_bytes(), [0]
    while found[-1] < len(data):
        (length,) = struct.unpack_from("<Q", data, found[-1])
        found.append(found[-1] + 8 + 4 + length + 4)
    return found


def flip(file, record):
    """Flip a byte in a record, which its checksum detects."""
    data = bytearray(file.read_bytes())
    data[places(file)[record] + 30] ^= 0xFF
    file.write_bytes(data)


def truncate(file, record, rest=40):
    """Cut a file off in a record, or with rest 0 before it, which no checksum detects."""
    file.write_bytes(file.read_bytes()[: places(file)[record] + rest])


def replace(file, record, content):
    """Replace a record with other bytes and their right checksum."""
    tf = import_tensorflow()
    records = [*tf.data.TFRecordDataset(str(file)).as_numpy_iterator()]
    records[record] = content
    with tf.io.TFRecordWriter(str(file)) as writer:
        for content in records:
            writer.write(content)


def change_image(file, record, change):
    """Replace the bytes of the image in a record with `change(bytes)`."""
    tf = import_tensorflow()
    records = [*tf.data.TFRecordDataset(str(file)).as_numpy_iterator()]
    example = tf.train.Example.FromString(records[record])
    values = example.features.feature["image"].bytes_list.value
    values[0] = change(values[0])
    replace(file, record, example.SerializeToString())


def half(data):
    """Return the first half of an image's bytes."""
    return data[: len(data) // 2]


def larger(data):
    """Return a whole PNG of another size."""
    file = io.BytesIO()
    Image.fromarray(np.full((40, 40, 3), 7, np.uint8)).save(file, "PNG")
    return file.getvalue()
