"""Images with several right labels, or none: ImageNet ReaL.

Beyer et al., "Are we done with ImageNet?", arXiv 2006.07159: a prediction is right if it is one of
the labels that raters gave an image; images without a label do not count.
"""

import numpy as np

from aggnets_jax.data.array_records import is_array_record
from aggnets_jax.data.damage import RecordDamage, naming
from aggnets_jax.data.dataset_info import Split
from aggnets_jax.data.records import SplitReader, leave_images_encoded
from aggnets_jax.data.tf_runtime import import_tensorflow
from aggnets_jax.errors import UserError

# The feature with an image's labels, by the TFDS name of the set.
LABELS = {"imagenet2012_real": "real_label"}


def read_label_sets(split: Split) -> np.ndarray | None:
    """Return the labels of each image of a split, int32 [N, L], filled up with -1.

    All records are read for this. The result is None if the data set has one label for each image.

    Raises:
      UserError: at a damaged record that is not skipped, or for a set in array_record files.
    """
    key = LABELS.get(split.builder.name)
    if key is None:
        return None
    if is_array_record(split):
        raise UserError(
            f"{split.builder.name} is prepared as array_record; several labels of an image are read"
            " from tfrecord: prepare it in another --data_dir"
        )
    tf = import_tensorflow()
    features, decoders = split.builder.info.features, leave_images_encoded(split.builder)
    reader = SplitReader(split)
    records = reader.read(0, reader.num_examples).filter(lambda record: record["index"] >= 0)

    def parse(record: dict) -> tuple:
        example = features.deserialize_example(record["record"], decoders=decoders)
        return record["index"], example[key]

    examples = records.map(parse, tf.data.AUTOTUNE)
    with naming(RecordDamage(split), split):
        found = dict((examples.ignore_errors() if split.skip else examples).as_numpy_iterator())
    sets = np.full((reader.num_examples, max([1, *map(len, found.values())])), -1, np.int32)
    for index, labels in found.items():
        sets[index, : len(labels)] = labels
    return sets
