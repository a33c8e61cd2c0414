"""Data sets: what they are, and their batches on the devices.

    info = describe(config.data)
    for batch in train_batches(config.data, batch_size=64, seed=0, start_step=0, sharding=sharding):
        images = preprocess(batch, train=True)  # inside jit

Importing this package imports no TensorFlow; the first data set that is opened does.
"""

from aggnets_jax.data.info import DatasetInfo, describe
from aggnets_jax.data.pipeline import Batch, EvalBatches, eval_batches, train_batches
from aggnets_jax.data.preprocess import Preprocess, make_preprocess
from aggnets_jax.data.sampler import EpochSampler

__all__ = [
    "Batch",
    "DatasetInfo",
    "EpochSampler",
    "EvalBatches",
    "Preprocess",
    "describe",
    "eval_batches",
    "make_preprocess",
    "train_batches",
]
