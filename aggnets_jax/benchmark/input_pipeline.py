"""The input modes: training batches from random images, stored as TFDS stores its data sets.

They need TensorFlow. Images up to the size of CIFAR's are stored like CIFAR-10; larger images are
stored like ImageNet, as JPEGs that the host decodes, crops and resizes.
"""

import atexit
import contextlib
import functools
import io
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from aggnets_jax import config as config_lib
from aggnets_jax import data
from aggnets_jax.benchmark.program import Program
from aggnets_jax.benchmark.workload import Workload
from aggnets_jax.data.tf_runtime import import_tensorflow
from aggnets_jax.runtime import mesh as mesh_lib

_CIFAR_SIDE = 32
# Training images; fewer than in the real sets, so that they are soon written.
_IMAGES = {"cifar10": 10_000, "imagenet2012": 256}
# ImageNet's average size, and the noise that gives its JPEGs the average length, 110 kB.
_PHOTOGRAPH = (375, 500, 3)
_NOISE = 14


def input_batches(workload: Workload, resident: str) -> Program:
    """Return a program that makes augmented float32 batches on the devices, without a network.

    Args:
      workload: batch size, and the image shape, which decides on the data set.
      resident: as `config.data.resident`; only images of CIFAR's size can live on the devices.

    Raises:
      UserError: for an image shape that neither data set can have.
    """
    side = workload.image_shape[0]
    name = "cifar10" if side <= _CIFAR_SIDE else "imagenet2012"
    size, where = (None, resident) if side == _CIFAR_SIDE else (side, "never")
    given = {"data": {"name": name, "image_size": size, "resident": where}}
    config = config_lib.resolve(given)
    config.data.data_dir = data_folder(name)
    preprocess = data.make_preprocess(config.data, data.describe(config.data))
    training = data.train_data(
        config.data,
        batch_size=workload.batch_size,
        seeds=np.int32(0),
        sharding=mesh_lib.batch_sharding(mesh_lib.make_mesh()),
    )
    augment = jax.jit(lambda feed: preprocess(training.batch(feed, 0), train=True))
    steps = itertools.count()

    def run(count: int) -> None:
        for step in itertools.islice(steps, count):
            images = augment(training.feed(step))
        jax.block_until_ready(images)

    return Program(run, workload.batch_size, passes=0)


@functools.cache
def data_folder(name: str) -> str:
    """Write random images in the format of "cifar10" or "imagenet2012", and return the folder.

    The process deletes it at exit.
    """
    folder = tempfile.mkdtemp(prefix="aggnets_jax_benchmark_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
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
    return folder


def _examples(name: str, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield keys and examples with the features of the data set."""
    random = np.random.default_rng(0)
    for number in range(count):
        key = f"{number:06d}"
        if name == "cifar10":
            image = random.integers(0, 256, (_CIFAR_SIDE, _CIFAR_SIDE, 3), np.uint8)
            yield key, {"id": key, "image": image, "label": number % 10}
        else:
            yield key, {"file_name": key, "image": photograph(random), "label": number % 1000}


def photograph(random: np.random.Generator) -> np.ndarray:
    """Draw an image uint8 that takes as long to decode as an image of ImageNet."""
    height, width, channels = _PHOTOGRAPH
    across = np.linspace(0, 255, width)[:, None]
    noise = random.normal(0, _NOISE, (height, width, channels))
    return np.clip(across + noise, 0, 255).astype(np.uint8)
