"""A program: writes training and evaluation batches as other devices or processes see them.

python -m tests.data.batches_elsewhere OUT CIFAR10 IMAGENET SHARDS DEVICES [PROCESS PROCESSES PORT]
"""

import itertools
import sys

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from aggnets_jax.data import describe, eval_batches, make_preprocess, train_batches
from tests.data.conftest import make_config

BATCH_SIZE = 24
SEED = 4


def configs(cifar10_dir, imagenet_dir, shards_dir):
    return {
        "resident": make_config("cifar10", cifar10_dir, resident="always"),
        "streamed": make_config("cifar10", cifar10_dir, resident="never"),
        "shards": make_config("webdataset", shards_dir, resident="never"),
        "imagenet": make_config(
            "imagenet2012", imagenet_dir, image_size=16, policy="randaugment", erasing=0.5, cutout=4
        ),
    }


def collect(*folders, devices):
    """Return {"WAY/train or eval/STEP/FIELD": the rows that this process holds, in order}."""
    mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    found = {}
    for way, config in configs(*folders).items():
        settings = {"batch_size": BATCH_SIZE, "sharding": sharding}
        preprocess = jax.jit(make_preprocess(config, describe(config)), static_argnames="train")
        train = train_batches(config, seed=SEED, start_step=3, **settings)
        for step, batch in enumerate(itertools.islice(train, 3)):
            program = preprocess.lower(batch, train=True, seed=SEED).compile().as_text()
            assert "all-gather" not in program, "preprocessing moves images between devices"
            batch = batch | {"input": preprocess(batch, train=True, seed=SEED)}
            found |= {f"{way}/train/{step}/{k}": held_rows(v) for k, v in batch.items()}
        for step, batch in enumerate(eval_batches(config, **settings)):
            real = held_rows(batch["mask"]).astype(bool)  # how many are not depends on the devices
            found |= {f"{way}/eval/{step}/{k}": held_rows(v)[real] for k, v in batch.items()}
    return found


def held_rows(array):
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


if __name__ == "__main__":
    out, *folders = sys.argv[1:5]
    device_count, *cluster = sys.argv[5:]
    jax.config.update("jax_num_cpu_devices", int(device_count))
    if cluster:
        process, processes, port = map(int, cluster)
        jax.distributed.initialize(
            f"localhost:{port}", processes, process, initialization_timeout=60
        )
    np.savez(out, **collect(*folders, devices=jax.devices()))
