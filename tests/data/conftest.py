"""Data sets that the tests of this folder share, made once a session; and no network."""

import functools
import socket

import jax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from aggnets_jax.config import default_config
from tests.data.foreign_sets import WRITERS
from tests.data.official_formats import (
    prepare_small_cifar10,
    prepare_small_cifar100,
    prepare_small_imagenet,
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*arguments, **_):
        pytest.fail(f"a test went to the network: {arguments[-1]}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def make_config(name, data_dir, **changes):
    config = default_config().data
    config.update({"name": name, "data_dir": None if data_dir is None else str(data_dir)})
    config.update(changes)
    return config


@pytest.fixture(scope="session")
def sharding():
    """Return a sharding of batches on one device."""
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    return NamedSharding(mesh, PartitionSpec("data"))


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
    """Return a directory that is empty until a test uses the digits."""
    return tmp_path_factory.mktemp("digits")


@pytest.fixture(scope="session")
def cifar10(tmp_path_factory):
    """Return (data_dir, official arrays): 103 training images in 3 files, 50 test images."""
    data_dir = tmp_path_factory.mktemp("cifar10")
    return data_dir, prepare_small_cifar10(data_dir, num_train=103, num_test=50, num_shards=3)


@pytest.fixture(scope="session")
def foreign_cifar10(cifar10, tmp_path_factory):
    """Return a function from a form in foreign_sets.py to the config of CIFAR-10 in it."""
    pytest.MonkeyPatch().setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("hf_cache")))

    @functools.cache
    def written(form):
        name, place = WRITERS[form](tmp_path_factory.mktemp(form), cifar10[1])
        return name, str(place)

    return lambda form, **changes: make_config(*written(form), **changes)


@pytest.fixture(scope="session")
def cifar100(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("cifar100")
    return data_dir, prepare_small_cifar100(data_dir)


@pytest.fixture(scope="session")
def imagenet(tmp_path_factory):
    """Return (data_dir, official files): 25 training images in 2 files, 10 validation images."""
    data_dir = tmp_path_factory.mktemp("imagenet")
    return data_dir, prepare_small_imagenet(data_dir, num_train=25, num_shards=2)


@pytest.fixture(scope="session")
def odd_sets(tmp_path_factory):
    """Return a data_dir with the sets of odd_sets.py."""
    import tensorflow_datasets as tfds

    from tests.data import odd_sets

    data_dir = tmp_path_factory.mktemp("odd")
    for builder in (odd_sets.AggnetsWords, odd_sets.AggnetsGreyShapes):
        builder(data_dir=data_dir).download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    return data_dir
