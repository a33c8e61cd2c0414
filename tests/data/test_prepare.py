"""aggnets prepare-data: what it prints, and one line for each mistake."""

import subprocess
import sys
import tarfile

import pytest

from aggnets_jax.data import describe
from aggnets_jax.data.prepare import prepare
from aggnets_jax.main import main
from tests.data.conftest import make_config


def test_what_is_printed(tmp_path, capsys):
    assert main(["prepare-data", "--name=aggnets_digits", f"--data_dir={tmp_path / 'new'}"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for fact in (
        f"is prepared in {tmp_path}/new/aggnets_digits/1.1.0\n",
        "train: 1437 examples\n",
        "test: 360 examples\n",
        "classes: 10\n",
        f"use it with --config.data.name=aggnets_digits --data_dir={tmp_path}/new\n",
    ):
        assert fact in out
    assert describe(make_config("aggnets_digits", tmp_path / "new")).num_train == 1437


def test_names_of_folders_that_are_patterns(tmp_path, monkeypatch):
    """Builders of TFDS, such as "eurosat" and "resisc45", find images by `tf.io.gfile.glob`."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    data_dir, manual_dir = tmp_path / "run [1]", tmp_path / "a\\b"
    for folder in (data_dir / "downloads", manual_dir):
        folder.mkdir(parents=True)
        (folder / "1.jpg").touch()
    found = []

    def look(self, *, download_dir, download_config):
        for folder in (download_dir, download_config.manual_dir):
            found.extend(tf.io.gfile.glob(f"{folder}/*.jpg"))

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", look)
    prepare("aggnets_digits", str(data_dir), str(manual_dir))
    assert len(found) == 2


@pytest.mark.slow
def test_another_file_format(tmp_path, capfd):
    pytest.importorskip("array_record")
    arguments = ["--name=aggnets_digits", f"--data_dir={tmp_path}"]
    assert main(["prepare-data", *arguments, "--file_format=array_record"]) == 0
    assert describe(make_config("aggnets_digits", tmp_path)).num_train == 1437
    assert [*tmp_path.glob("*/*/*.array_record*")]
    fails_with(capfd, "as array_record already", *arguments, "--file_format=tfrecord")


@pytest.mark.slow
def test_a_mistake_as_a_program(tmp_path):
    command = [sys.executable, "-m", "aggnets_jax", "prepare-data", "--name=imagenet2012"]
    answer = subprocess.run([*command, f"--data_dir={tmp_path}"], capture_output=True, text=True)
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: files for imagenet2012 are missing; give --manual_dir")
    assert answer.stderr.count("\n") == 1


def fails_with(capfd, message, *arguments):
    assert main(["prepare-data", *arguments]) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error
    assert message in error


def test_unknown_name(capfd):
    fails_with(capfd, "unknown data set 'cifar11'; nearest: cifar10", "--name=cifar11")


def test_arguments(capfd):
    fails_with(capfd, "required: --name")
    fails_with(capfd, "unknown flag '--nam'; nearest: --name", "--nam=cifar10")
    fails_with(capfd, "unknown flag '--dir'; nearest: --data_dir", "--name=cifar10", "--dir=x")


def test_not_for_image_classification(capfd, tmp_path):
    fails_with(
        capfd, "not for image classification", "--name=imdb_reviews", f"--data_dir={tmp_path}"
    )


def test_directories(capfd, tmp_path):
    fails_with(capfd, "'/proc/x'", "--name=aggnets_digits", "--data_dir=/proc/x")
    fails_with(
        capfd,
        "manual_dir /nowhere does not exist",
        "--name=cifar10",
        f"--data_dir={tmp_path}",
        "--manual_dir=/nowhere",
    )


def test_files_that_are_not_the_official_ones(capfd, tmp_path):
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"something else")
    arguments = ("--name=cifar10", f"--data_dir={tmp_path}", f"--manual_dir={tmp_path}")
    fails_with(capfd, "cannot prepare cifar10: Artifact", *arguments)


def test_imagenet_without_the_validation_images(capfd, tmp_path):
    with tarfile.open(tmp_path / "ILSVRC2012_img_train.tar", "w"):
        pass
    arguments = ("--name=imagenet2012", f"--data_dir={tmp_path}", f"--manual_dir={tmp_path}")
    fails_with(capfd, "ILSVRC2012_img_val.tar", *arguments)


def test_no_network(capfd, tmp_path, monkeypatch):
    import requests

    def refuse(*_, **__):
        raise requests.exceptions.ConnectionError("Failed to resolve 'www.cs.toronto.edu'")

    monkeypatch.setattr(requests.Session, "get", refuse)
    fails_with(
        capfd,
        "cannot prepare cifar10: Failed to resolve 'www.cs.toronto.edu'",
        "--name=cifar10",
        f"--data_dir={tmp_path}",
    )


def test_what_is_prepared_is_left_alone(capfd, cifar10):
    data_dir = cifar10[0]
    facts = data_dir / "cifar10" / "3.0.2" / "dataset_info.json"
    before = facts.stat().st_mtime_ns
    assert main(["prepare-data", "--name=cifar10", f"--data_dir={data_dir}"]) == 0
    assert facts.stat().st_mtime_ns == before
    assert "train: 103 examples" in capfd.readouterr().out


@pytest.fixture(autouse=True)
def quiet_again():
    """Undo the quietening of the whole process's loggers by main()."""
    from absl import logging

    level = logging.get_verbosity()
    yield
    logging.set_verbosity(level)
