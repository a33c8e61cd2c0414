"""The batches are the same on one device, on eight, and over two processes."""

import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from aggnets_jax.data import train_batches
from aggnets_jax.errors import UserError
from tests.data import batches_elsewhere
from tests.data.conftest import make_config


@pytest.fixture(scope="module")
def folders(cifar10, imagenet, foreign_cifar10):
    return [cifar10[0], imagenet[0], foreign_cifar10("webdataset").data_dir]


@pytest.fixture(scope="module")
def on_one_device(folders):
    return batches_elsewhere.collect(*folders, devices=jax.devices()[:1])


def start(out, folders, *arguments):
    command = [sys.executable, "-m", "tests.data.batches_elsewhere", out, *folders, *arguments]
    return subprocess.Popen([*map(str, command)])


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert len(ours) > 50
    for name in ours:
        if name.endswith("input"):
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.slow
def test_eight_devices(folders, on_one_device, tmp_path):
    process = start(tmp_path / "eight.npz", folders, 8)
    assert process.wait(timeout=300) == 0
    assert_same(dict(np.load(tmp_path / "eight.npz")), on_one_device)


@pytest.mark.slow
def test_two_processes(folders, on_one_device, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    files = [tmp_path / f"{process}.npz" for process in range(2)]
    processes = [start(f, folders, 2, k, 2, port) for k, f in enumerate(files)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    first, second = (dict(np.load(file)) for file in files)
    trained = [len(rows) for name, rows in first.items() if "/train/" in name]
    assert {*trained} == {batches_elsewhere.BATCH_SIZE // 2}
    whole = {name: np.concatenate([first[name], second[name]]) for name in first}
    assert_same(whole, on_one_device)


def test_batch_that_cannot_be_divided(cifar10):
    """Told for any mesh; abstract devices suffice, none is touched."""
    mesh = jax.sharding.AbstractMesh((8,), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    with pytest.raises(UserError, match="batch_size 12 cannot be divided evenly over 8 devices"):
        train_batches(make_config("cifar10", cifar10[0]), batch_size=12, seed=0, sharding=sharding)
