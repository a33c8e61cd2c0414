"""Data sets: facts about them, and their batches on the devices.

    info = describe(config.data)
    for batch in train_batches(config.data, batch_size=64, seed=0, start_step=0, sharding=sharding):
        images = preprocess(batch, train=True, seed=0)  # inside jit

Importing this package imports no TensorFlow; opening a data set does.
"""

from aggnets_jax.data.augment.mix import Mix, make_mix
from aggnets_jax.data.batches import (
    EvalBatches,
    StreamedData,
    array_batches,
    eval_batches,
    file_batches,
    train_batches,
    train_data,
)
from aggnets_jax.data.class_maps import Among, ClassMap, map_classes, other_classes
from aggnets_jax.data.dataset_info import (
    DatasetInfo,
    describe,
    describe_known,
    evaluation_split,
)
from aggnets_jax.data.image_folder import listing_once
from aggnets_jax.data.preprocess import Preprocess, as_they_are, make_preprocess
from aggnets_jax.data.resident import Batch, ResidentData
from aggnets_jax.data.sources.opened import unnamed_classes

__all__ = [
    "Among",
    "Batch",
    "ClassMap",
    "DatasetInfo",
    "EvalBatches",
    "Mix",
    "Preprocess",
    "ResidentData",
    "StreamedData",
    "array_batches",
    "as_they_are",
    "describe",
    "describe_known",
    "eval_batches",
    "evaluation_split",
    "file_batches",
    "listing_once",
    "make_mix",
    "make_preprocess",
    "map_classes",
    "other_classes",
    "train_batches",
    "train_data",
    "unnamed_classes",
]
