"""describe: the facts of a data set, and one clear line for each mistake."""

import os
import shutil
import subprocess
import sys

import pytest

from aggnets_jax.data import DatasetInfo, describe, train_batches
from aggnets_jax.data.catalog import open_prepared
from aggnets_jax.data.dataset_info import shared_examples
from aggnets_jax.errors import UserError
from tests.data.conftest import make_config
from tests.patterns import one_line_error


def test_facts_of_cifar10(cifar10):
    info = describe(make_config("cifar10", cifar10[0]))
    assert info == DatasetInfo(
        name="cifar10",
        num_classes=10,
        class_names=(
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ),
        image_shape=(32, 32, 3),
        num_train=103,
        num_eval=50,
        train_split="train",
        eval_split="test",
        mean=(0.49139968, 0.48215827, 0.44653124),
        std=(0.24703233, 0.24348505, 0.26158768),
        resident=True,
        resized=False,
    )


def test_cifar100_has_its_fine_labels(cifar100):
    info = describe(make_config("cifar100", cifar100[0]))
    assert info.num_classes == 100
    assert info.class_names[7] == "fine_07"
    assert info.mean == (0.5071, 0.4867, 0.4408)


def test_facts_of_imagenet(imagenet):
    info = describe(make_config("imagenet2012", imagenet[0], image_size=64))
    assert (info.num_classes, info.num_train, info.num_eval) == (1000, 25, 10)
    assert info.image_shape == (64, 64, 3)
    assert info.eval_split == "validation"
    assert info.std == (0.229, 0.224, 0.225)
    assert info.resized
    assert not info.resident


def test_slices_of_splits(cifar10):
    config = make_config("cifar10", cifar10[0], train_split="train[:80]", eval_split="train[80:]")
    info = describe(config)
    assert (info.num_train, info.num_eval) == (80, 23)


def test_resized_only_when_the_size_changes(cifar10):
    streamed = make_config("cifar10", cifar10[0], resident="never")
    assert not describe(streamed).resized
    streamed.image_size = 32
    assert not describe(streamed).resized
    streamed.image_size = 24
    assert describe(streamed).resized
    assert describe(streamed).image_shape == (24, 24, 3)


def test_large_sets_are_streamed(cifar10, monkeypatch):
    config = make_config("cifar10", cifar10[0])
    monkeypatch.setattr("aggnets_jax.data.dataset_info.RESIDENT_BYTES", 103 * 32 * 32 * 3)
    assert describe(config).resident
    monkeypatch.setattr("aggnets_jax.data.dataset_info.RESIDENT_BYTES", 103 * 32 * 32 * 3 - 1)
    assert not describe(config).resident
    config.resident = "always"
    assert describe(config).resident


def test_constants_can_be_given(cifar10):
    given = {"mean": (0.1, 0.2, 0.3), "std": (1.0, 2.0, 3.0)}
    info = describe(make_config("cifar10", cifar10[0], **given))
    assert (info.mean, info.std) == (given["mean"], given["std"])


def test_constants_of_an_unknown_set_are_one_half(odd_sets):
    info = describe(make_config("aggnets_grey_shapes", odd_sets, image_size=16))
    assert (info.mean, info.std) == ((0.5,), (0.5,))
    assert info.image_shape == (16, 16, 1)


def test_a_set_of_another_version_is_found(tmp_path, cifar10):
    """As TFDS 4.0 left it: 3.0.0, where today's builder would write 3.0.2."""
    old = tmp_path / "cifar10" / "3.0.0"
    shutil.copytree(cifar10[0] / "cifar10" / "3.0.2", old)
    facts = old / "dataset_info.json"
    facts.write_text(facts.read_text().replace('"3.0.2"', '"3.0.0"'))
    assert describe(make_config("cifar10", tmp_path)).num_train == 103


CIFAR_MISTAKES = {
    "cifar11": ({"name": "cifar11"}, "unknown data set 'cifar11'; nearest: cifar10"),
    "config": ({"name": "imagenet_resized/33x33"}, "config of imagenet_resized '33x33'; nearest: "),
    "unprepared": (
        {"name": "mnist"},
        "aggnets prepare-data --name=mnist --data_dir={data_dir}",
    ),
    "data_dir": ({"data_dir": "/nowhere/at/all"}, "/nowhere/at/all does not exist"),
    "relative data_dir": (
        {"data_dir": "nowhere"},
        f"nowhere does not exist or is not a directory in {os.getcwd()}; change --data_dir",
    ),
    "train split": ({"train_split": "trian"}, "'trian'.*its splits: test, train"),
    "slice": ({"train_split": "train[200:]"}, "train.200:.*103 examples"),
    "syntax": ({"eval_split": "test["}, "its splits: test, train"),
    "all": ({"eval_split": "all[:3]"}, "its splits: test, train"),
    "empty": ({"train_split": "train[:0]"}, "'train.:0.' of cifar10 is empty"),
    "size": ({"image_size": 64}, "32x32.*leave image_size unset.*resident='never'"),
    "no size": ({"image_size": 0}, "image_size must be a whole number of at least 1, got 0"),
    "resident": ({"resident": "sometimes"}, "'sometimes'; allowed: always, auto, never"),
    "std": ({"std": (1.0, 0.0, 1.0)}, "std must be greater than 0"),
    "std length": ({"std": (1.0,)}, r"std needs 3 value\(s\).*not 1"),
    "mean length": ({"mean": (1.0, 2.0)}, r"mean needs 3 value\(s\).*not 2"),
    "negative padding": ({"crop_padding": -1}, "crop_padding must be between 0 and 32, not -1"),
    "padding": ({"crop_padding": 33}, "crop_padding must be between 0 and 32, not 33"),
}


@pytest.mark.parametrize("mistake", CIFAR_MISTAKES)
def test_mistakes_with_cifar10(cifar10, mistake):
    changes, message = CIFAR_MISTAKES[mistake]
    config = make_config("cifar10", cifar10[0])
    config.update(changes)
    fails_with(config, message.format(data_dir=cifar10[0]))


IMAGENET_MISTAKES = {
    "no size": (
        {},
        "images of imagenet2012 may vary in size: set config.data.image_size, such as 224",
    ),
    "resident": ({"image_size": 32, "resident": "always"}, "vary; set resident='auto'"),
    "unlabelled": ({"image_size": 32, "eval_split": "test"}, "its splits: train, validation"),
}


@pytest.mark.parametrize("mistake", IMAGENET_MISTAKES)
def test_mistakes_with_imagenet(imagenet, mistake):
    changes, message = IMAGENET_MISTAKES[mistake]
    fails_with(make_config("imagenet2012", imagenet[0], **changes), message)


def test_not_for_image_classification(odd_sets):
    fails_with(
        make_config("aggnets_words", odd_sets),
        "aggnets_words is not for image classification.*has the features label, text",
    )


def test_no_split_for_evaluation(tmp_path, odd_sets, monkeypatch):
    monkeypatch.setattr("aggnets_jax.data.dataset_info.UNLABELLED_TEST", ("aggnets_grey_shapes",))
    fails_with(
        make_config("aggnets_grey_shapes", odd_sets, image_size=16),
        "no split for evaluation; set eval_split to one of test, train",
    )


def test_data_dir_is_a_file(tmp_path):
    file = tmp_path / "file"
    file.touch()
    fails_with(make_config("aggnets_digits", file), "is not a directory")


def test_digits_where_nothing_can_be_written():
    fails_with(make_config("aggnets_digits", "/proc"), "cannot write.*aggnets_digits.*/proc")


def fails_with(config, message):
    with pytest.raises(UserError, match=message) as caught:
        describe(config)
    assert "\n" not in str(caught.value)


def test_importing_the_package_imports_no_tensorflow():
    code = (
        "import sys, aggnets_jax.data, aggnets_jax.data.prepare; "
        "print([m for m in ('tensorflow', 'tensorflow_datasets', 'sklearn') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_a_damaged_file_of_a_prepared_set_is_named(name, data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
    (file,) = tmp_path.rglob(name)
    file.write_bytes(b"{\xff")
    message = one_line_error(describe, make_config("aggnets_digits", str(tmp_path)))
    assert f"data set 'aggnets_digits' cannot be opened: {file} is damaged: " in message


def test_images_that_are_trained_on_and_evaluated_are_told(data_dir, sharding, capsys):
    builder = open_prepared("aggnets_digits", data_dir)
    assert shared_examples(builder, "train", "test") == 0
    assert shared_examples(builder, "train[:80%]", "train[80%:]") == 0
    assert shared_examples(builder, "train[:1100]", "train[1000:]") == 100
    assert shared_examples(builder, "train+test", "train[5:9]") == 4
    for changes, told in (({}, ""), ({"eval_split": "train[:5]"}, "5 of 5 images of 'train[:5]'")):
        config = make_config("aggnets_digits", data_dir, **changes)
        for _ in range(2):
            train_batches(config, batch_size=8, seed=0, sharding=sharding)
        err = capsys.readouterr().err
        assert told in err and err.count("\n") == bool(told)
