"""Ways to damage prepared data sets and files."""

import io
import shutil
import struct

import numpy as np
from PIL import Image

from aggnets_jax.data.tf_runtime import import_tensorflow


def copy_of(data_dir, to):
    """Copies the prepared data sets in a directory, without the official files."""
    shutil.copytree(data_dir, to, ignore=shutil.ignore_patterns("official_*", "downloads"))
    return to


def shard(data_dir, split, number):
    """The file of a split with this number."""
    return sorted(data_dir.rglob(f"*-{split}.tfrecord-*"))[number]


def places(file):
    """Where the records of a file begin, and where it ends."""
    data, found = file.read_bytes(), [0]
    while found[-1] < len(data):
        (length,) = struct.unpack_from("<Q", data, found[-1])
        found.append(found[-1] + 8 + 4 + length + 4)
    return found


def flip(file, record):
    """Flips a byte in a record, which its checksum tells."""
    data = bytearray(file.read_bytes())
    data[places(file)[record] + 30] ^= 0xFF
    file.write_bytes(data)


def truncate(file, record, rest=40):
    """Cuts a file off in a record, or with no rest before it, which no checksum tells."""
    file.write_bytes(file.read_bytes()[: places(file)[record] + rest])


def replace(file, record, content):
    """Replaces a record by other bytes, with the right checksum."""
    tf = import_tensorflow()
    records = [*tf.data.TFRecordDataset(str(file)).as_numpy_iterator()]
    records[record] = content
    with tf.io.TFRecordWriter(str(file)) as writer:
        for content in records:
            writer.write(content)


def change_image(file, record, change):
    """Replaces the image in a record by what `change` makes of its bytes."""
    tf = import_tensorflow()
    records = [*tf.data.TFRecordDataset(str(file)).as_numpy_iterator()]
    example = tf.train.Example.FromString(records[record])
    values = example.features.feature["image"].bytes_list.value
    values[0] = change(values[0])
    replace(file, record, example.SerializeToString())


def half(data):
    """The first half of an image's bytes."""
    return data[: len(data) // 2]


def larger(data):
    """A whole PNG of another size."""
    file = io.BytesIO()
    Image.fromarray(np.full((40, 40, 3), 7, np.uint8)).save(file, "PNG")
    return file.getvalue()
