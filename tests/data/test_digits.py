"""The shipped digits: scikit-learn's, in a split that never changes."""

import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_digits

from aggnets_jax.data import describe
from aggnets_jax.data.catalog import open_prepared
from aggnets_jax.data.dataset_info import NORMALISATION, Split
from aggnets_jax.data.digits import digits_split
from aggnets_jax.data.host_pipeline import load_split
from tests.data.conftest import make_config

SPLIT_SHA256 = "95e807df1c7dc48c478c35047d7b3a8dbcc8e3ac97c739d2a11c2b4a8b19be65"


@pytest.fixture(scope="module")
def splits(digits_dir):
    return {split: load(digits_dir, split) for split in ("train", "test")}


def load(digits_dir, split):
    info = describe(make_config("aggnets_digits", digits_dir))
    return load_split(Split(open_prepared(info.name, str(digits_dir)), info, split))


def test_split_is_fixed():
    train, test = digits_split()
    stored = ",".join(map(str, sorted(train))) + ";" + ",".join(map(str, sorted(test)))
    assert hashlib.sha256(stored.encode()).hexdigest() == SPLIT_SHA256


def test_split_is_stratified_and_complete():
    train, test = digits_split()
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(1797))
    assert (len(train), len(test)) == (1437, 360)
    labels = load_digits().target
    everywhere = np.bincount(labels)
    assert np.abs(np.bincount(labels[test]) - 0.2 * everywhere).max() <= 1


def test_stored_values_are_scikit_learns(splits):
    digits = load_digits()
    for (images, labels), numbers in zip(
        (splits["train"], splits["test"]), digits_split(), strict=True
    ):
        values = images[..., 0] * (16 / 255)
        assert np.abs(values - np.round(values)).max() < 0.04  # half a step of 1/255 is 0.03
        values = np.round(values).astype(int)
        stored = sorted((int(k), image.tobytes()) for image, k in zip(values, labels, strict=True))
        wanted = sorted(
            (int(digits.target[k]), digits.images[k].astype(int).tobytes()) for k in numbers
        )
        assert stored == wanted


def test_constants_are_those_of_the_training_images(splits):
    scaled = splits["train"][0] / 255
    (mean,), (std,) = NORMALISATION["aggnets_digits"]
    assert mean == pytest.approx(scaled.mean(), abs=1e-7)
    assert std == pytest.approx(scaled.std(), abs=1e-7)


def test_they_are_prepared_on_the_spot(tmp_path):
    info = describe(make_config("aggnets_digits", tmp_path))
    assert (info.num_train, info.num_eval, info.num_classes) == (1437, 360, 10)
    assert info.image_shape == (8, 8, 1)
    assert info.eval_split == "test"
    assert info.resident
    assert not info.resized
    assert (tmp_path / "aggnets_digits" / "1.1.0" / "dataset_info.json").exists()


def test_few_images_are_the_first_of_each_class(digits_dir, splits):
    images, labels = load(digits_dir, "train_10_per_class")
    assert np.array_equal(np.bincount(labels), [10] * 10)
    train = {image.tobytes() for image in splits["train"][0]}
    assert all(image.tobytes() in train for image in images)
