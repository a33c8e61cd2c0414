"""Small splits that are read without TensorFlow: the same as with it, or not at all."""

import io

import numpy as np
import pytest
from PIL import Image

from aggnets_jax.data import host_pipeline, small_splits
from aggnets_jax.data.catalog import open_prepared
from aggnets_jax.data.dataset_info import Split, describe
from aggnets_jax.data.host_pipeline import eval_dataset
from aggnets_jax.data.record_order import BatchRows
from aggnets_jax.data.small_splits import is_small, read_small
from tests.data.conftest import make_config
from tests.data.damaging import change_image, copy_of, flip, half, larger, shard, truncate


def opened(name, data_dir, split):
    config = make_config(name, data_dir)
    return Split(open_prepared(name, config.data_dir), describe(config), split)


def of_tensorflow(split, monkeypatch):
    monkeypatch.setattr(host_pipeline, "is_small", lambda *_: False)
    size = split.num_examples
    (batch,) = eval_dataset(split, BatchRows(size, np.arange(size)))()
    return batch["image"], batch["label"]


@pytest.mark.parametrize("split", ["train", "test", "train[10:40]+train[35%:80%]"])
@pytest.mark.parametrize("name", ["cifar10", "aggnets_digits"])
def test_what_is_read_is_what_tensorflow_reads(name, split, cifar10, digits_dir, monkeypatch):
    split = opened(name, cifar10[0] if name == "cifar10" else digits_dir, split)
    assert is_small(split)
    for ours, theirs in zip(read_small(split), of_tensorflow(split, monkeypatch), strict=True):
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)


def test_all_greys_are_what_tensorflow_decodes(digits_dir, tmp_path, monkeypatch):
    data_dir = copy_of(digits_dir, tmp_path / "data")
    split = opened("aggnets_digits", data_dir, "test[:4]")
    greys = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    for number, grey in enumerate(greys):
        change_image(shard(data_dir, "test", 0), number, lambda _, grey=grey: png(grey))
    images, _ = read_small(split)
    assert np.array_equal(images[..., 0], greys)
    assert np.array_equal(images, of_tensorflow(split, monkeypatch)[0])


def png(pixels, **how):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **how)
    return file.getvalue()


def with_wrong_checksum(data):
    """Change the checksum of the image data, which PIL ignores when it decodes."""
    place = data.index(b"IEND") - 5
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


@pytest.mark.parametrize(
    "change",
    [
        lambda file: flip(file, 1),
        lambda file: truncate(file, 1),
        lambda file: truncate(file, 1, 0),
        lambda file: file.unlink(),
        lambda file: change_image(file, 1, half),
        lambda file: change_image(file, 1, larger),
        lambda file: change_image(file, 1, with_wrong_checksum),
        lambda file: change_image(file, 1, lambda _: png(np.zeros((32, 32), np.uint8))),
        lambda file: change_image(
            file, 1, lambda _: png(np.zeros((32, 32, 3), np.uint8), transparency=(0, 0, 0))
        ),
    ],
)
def test_what_is_not_in_order_is_not_read(cifar10, tmp_path, change):
    data_dir = copy_of(cifar10[0], tmp_path / "data")
    split = opened("cifar10", data_dir, "train")
    change(shard(data_dir, "train", 1))
    assert read_small(split) is None


def test_what_is_not_small_or_not_there(cifar10, tmp_path, monkeypatch):
    data_dir = copy_of(cifar10[0], tmp_path / "data")
    train, test = (opened("cifar10", data_dir, name) for name in ("train", "test"))
    assert is_small(train)
    assert is_small(test)
    shard(data_dir, "test", 1).unlink()
    assert not is_small(test)
    monkeypatch.setattr(small_splits, "SMALL_BYTES", 1000)
    assert not is_small(train)


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [2, 3], [3]])
def test_batches_have_their_rows(cifar10, rows, monkeypatch):
    split, rows = opened("cifar10", cifar10[0], "test"), BatchRows(4, np.array(rows))
    ours = [*eval_dataset(split, rows)()]
    monkeypatch.setattr(host_pipeline, "is_small", lambda *_: False)
    theirs = [*eval_dataset(split, rows)()]
    assert [batch.keys() for batch in ours] == [batch.keys() for batch in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert all(np.array_equal(mine[name], other[name]) for name in other)
