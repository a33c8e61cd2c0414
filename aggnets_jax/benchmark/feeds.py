"""The input pipelines, on random images as TFDS stores CIFAR-10 and ImageNet; needs TensorFlow."""

import atexit
import contextlib
import functools
import io
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from aggnets_jax import config as config_lib
from aggnets_jax import data
from aggnets_jax.benchmark.programs import Program
from aggnets_jax.benchmark.setting import Setting
from aggnets_jax.data.tf_runtime import import_tensorflow
from aggnets_jax.runtime import mesh as mesh_lib

# The largest images that are CIFAR's; those of ImageNet are cut and resized by the host.
_CIFAR_SIDE = 32
# In the training split; less than there are, which changes nothing but how long they take to write.
_IMAGES = {"cifar10": 10_000, "imagenet2012": 256}
# The average size in ImageNet, and noise with which its JPEGs have the average length, 110 kB.
_PHOTOGRAPH = (375, 500, 3)
_NOISE = 14


def make_feed(setting: Setting, resident: str) -> Program:
    """Batches of training, as `aggnets_jax.data` makes and augments them: float32, on the devices.

    Args:
      setting: whose images these are: those of CIFAR-10, on the devices if `resident` allows, or
        larger ones, decoded from JPEG.
      resident: as `config.data.resident`.
    """
    side = setting.image_shape[0]
    config = config_lib.resolve(
        {
            "data": {
                "name": "cifar10" if side <= _CIFAR_SIDE else "imagenet2012",
                "image_size": None if side == _CIFAR_SIDE else side,
                "resident": resident if side == _CIFAR_SIDE else "never",
            }
        }
    )
    config.data.data_dir = _folder(config.data.name)
    info = data.describe(config.data)
    preprocess = data.make_preprocess(config.data, info)
    training = data.train_data(
        config.data,
        batch_size=setting.batch_size,
        seeds=np.int32(0),
        sharding=mesh_lib.batch_sharding(mesh_lib.make_mesh()),
    )
    images = jax.jit(lambda feed: preprocess(training.batch(feed, 0), train=True))
    steps = itertools.count()

    def run(count: int) -> None:
        for step in itertools.islice(steps, count):
            made = images(training.feed(step))
        jax.block_until_ready(made)

    return Program(run, setting.batch_size, passes=0)


@functools.cache
def _folder(name: str) -> str:
    """The folder of a data set, made when it is first needed; it goes with the process."""
    folder = tempfile.mkdtemp(prefix="aggnets_jax_benchmark_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _write(name, Path(folder))
    return folder


def _write(name: str, folder: Path) -> None:
    """Writes a data set of random images as TFDS prepares the one of that name."""
    import_tensorflow()
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=folder)
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version=builder.version,
            features=builder.info.features,
            split_datasets={
                "train": _examples(name, _IMAGES[name]),
                "test" if name == "cifar10" else "validation": _examples(name, 1),
            },
            data_dir=folder,
        )


def _examples(name: str, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Keys and examples with the features of the data set."""
    random = np.random.default_rng(0)
    for number in range(count):
        key = f"{number:06d}"
        if name == "cifar10":
            image = random.integers(0, 256, (_CIFAR_SIDE, _CIFAR_SIDE, 3), np.uint8)
            yield key, {"id": key, "image": image, "label": number % 10}
        else:
            yield key, {"file_name": key, "image": _photograph(random), "label": number % 1000}


def _photograph(random: np.random.Generator) -> np.ndarray:
    """An image uint8 that takes as long to decode as one of ImageNet."""
    height, width, channels = _PHOTOGRAPH
    across = np.linspace(0, 255, width)[:, None]
    noise = random.normal(0, _NOISE, (height, width, channels))
    return np.clip(across + noise, 0, 255).astype(np.uint8)
