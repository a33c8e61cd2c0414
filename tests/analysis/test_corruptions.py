"""Errors on corrupted images: mCE by hand, the command, and sets in their authors' formats."""

import csv
import shutil

import numpy as np
import pytest
from sklearn.datasets import load_digits

from aggnets_jax.analysis import corruptions
from aggnets_jax.config import default_config
from aggnets_jax.data import DatasetInfo
from aggnets_jax.data.corrupted_sets import PREPARED
from aggnets_jax.data.corruptions import CORRUPTIONS, SEVERITIES
from aggnets_jax.data.corruptions.severities import SMALL
from aggnets_jax.data.digits import digits_split
from aggnets_jax.errors import UserError
from aggnets_jax.main import main
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.workdir.restore import Restored
from tests.data.corruptions import reference
from tests.data.official_formats import prepare_small_cifar10_c


def rows(file):
    return list(csv.DictReader(file.read_text().splitlines()))


def analyse(workdir, output, *flags):
    given = [f"--workdir={workdir}", f"--output={output}", *flags]
    assert main(["analyse", "corruptions", *given]) == 0
    return rows(output / "corruptions.csv"), rows(output / "corruption_errors.csv")


def accuracies(found):
    return [
        {"corruption": name, "severity": severity, "accuracy": accuracy}
        for name, values in found.items()
        for severity, accuracy in enumerate(values, start=1)
    ]


def test_mce_is_the_mean_of_ratios_of_sums():
    """As in the paper's equation: not the mean over severities of ratios."""
    own = corruptions.errors(accuracies({"none": [0.9], "fog": [0.8, 0.6], "snow": [0.7, 0.5]}))
    other = corruptions.errors(accuracies({"none": [0.8], "fog": [0.5, 0.3], "snow": [0.6, 0.6]}))
    fog, snow, mean = corruptions.corruption_errors(own, other)
    assert fog["ce"] == pytest.approx((0.2 + 0.4) / (0.5 + 0.7))
    assert fog["relative_ce"] == pytest.approx((0.1 + 0.3) / (0.3 + 0.5))
    assert snow["ce"] == pytest.approx((0.3 + 0.5) / (0.4 + 0.4))
    assert mean["ce"] == pytest.approx((fog["ce"] + snow["ce"]) / 2)
    assert mean["error"] == pytest.approx(0.35)
    assert corruptions.corruption_errors(own, None)[-1]["ce"] is None
    without = {name: error for name, error in own.items() if name != "none"}
    assert corruptions.corruption_errors(without, other)[-1]["relative_ce"] is None


def test_alexnet_is_its_own_reference():
    assert tuple(corruptions.ALEXNET) == (*CORRUPTIONS, "none")
    mean = corruptions.corruption_errors(corruptions.ALEXNET, corruptions.ALEXNET)[-1]
    assert mean["ce"] == mean["relative_ce"] == 1


def corrupted_digits(name, severity):
    """Return the corrupted digits of the test split by the reference, and their labels."""
    digits, (_, test) = load_digits(), digits_split()
    images = np.round(digits.images[test] * 255 / 16).astype(np.uint8)[..., None]
    changed = [getattr(reference, name)(x, *SMALL[name][severity - 1]) for x in images]
    levels = np.floor(255 * np.clip(changed, 0, 1) + 1e-6).astype(np.uint8)
    return levels, digits.target[test]


@pytest.mark.slow
def test_generated_images_and_arrays_give_the_same_accuracy(finished_run, tmp_path, capsys):
    """The arrays are made by the reference, in the format of CIFAR-10-C."""
    flags = ("--corruptions", "brightness", "--severities", "1", "5")
    same = shutil.copytree(finished_run, tmp_path / "same")
    found, errors = analyse(finished_run, tmp_path / "a", *flags, f"--against={same}")
    assert "CE against" in capsys.readouterr().out
    assert float(errors[-1]["ce"]) == 1
    clean = found[0]
    assert [row["severity"] for row in found] == ["0", "1", "5"] * 2
    assert found[:3] == [{**row, "network": found[0]["network"]} for row in found[3:]]
    images, labels = zip(*(corrupted_digits("brightness", s) for s in SEVERITIES), strict=True)
    folder = tmp_path / "digits-c"
    folder.mkdir()
    np.save(folder / "brightness.npy", np.concatenate(images))
    np.save(folder / "labels.npy", np.concatenate(labels))
    stored, errors = analyse(finished_run, tmp_path / "b", *flags, f"--data={folder}")
    assert stored[0] == clean
    for ours, theirs in zip(stored[1:], found[1:3], strict=True):
        assert ours["examples"] == theirs["examples"] == "360"
        assert float(ours["accuracy"]) == pytest.approx(float(theirs["accuracy"]), abs=2 / 360)
    assert [row["corruption"] for row in errors] == ["brightness", "mean"]
    assert errors[0]["ce"] == ""


@pytest.mark.slow
def test_cifar10_c_of_tfds_and_of_its_files_give_the_same(tmp_path):
    """A network that finds the brightest of ten columns, on images that lose their light."""
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(10), 5)
    images = rng.integers(0, 60, (50, 32, 32, 3), np.uint8)
    for number, label in enumerate(labels):
        light = 255 if number < 20 else 30  # of the first two severities, and of the others
        images[number, :, 3 * label + 1 : 3 * label + 3] = light
    prepare_small_cifar10_c(tmp_path, "frosted_glass_blur", images, labels)
    folder = tmp_path / "official_cifar10_c" / "CIFAR-10-C"

    class Brightest:
        def apply(self, variables, images, *, train):
            columns = images.mean((1, 3))
            places = 3 * np.arange(10) + 1
            return columns[:, places] + columns[:, places + 1], {}

    info = DatasetInfo(
        *("cifar10", 10, tuple("abcdefghij"), (32, 32, 3), 0, 0, "train", "test"),
        *((0.5,) * 3, (0.5,) * 3, False, False),
    )
    network = Restored(0, default_config(), info, Brightest(), {})
    mesh = mesh_lib.make_mesh()
    of_tfds = corruptions.Reading(["glass_blur"], source=PREPARED[0], data_dir=str(tmp_path))
    found = corruptions.measure(network, mesh, of_tfds)
    assert [row["accuracy"] == 1 for row in found] == [True, True, False, False, False]
    of_files = corruptions.Reading(["glass_blur"], source=str(folder))
    for ours, theirs in zip(corruptions.measure(network, mesh, of_files), found, strict=True):
        assert ours == pytest.approx(theirs)


@pytest.mark.slow
def test_the_digits_have_a_c(finished_run, tmp_path):
    """All fifteen corruptions at one severity."""
    found, errors = analyse(finished_run, tmp_path, "--severities", "3")
    assert [row["corruption"] for row in found] == ["none", *CORRUPTIONS]
    assert [row["corruption"] for row in errors] == [*CORRUPTIONS, "mean"]
    assert (tmp_path / "corruptions.png").exists()


def test_random_numbers_depend_on_seed_and_image_alone():
    images = np.full((4, 8, 8, 1), 128, np.uint8)
    change = corruptions.make_changer("gaussian_noise", 3, (8, 8, 1), corruptions.Reading())
    whole = np.asarray(change(images, np.int32(0)))
    np.testing.assert_array_equal(change(images[:2], np.int32(2)), whole[2:])
    assert len({image.tobytes() for image in whole}) == 4
    other = corruptions.make_changer("gaussian_noise", 3, (8, 8, 1), corruptions.Reading(seed=1))
    assert np.any(np.asarray(other(images, np.int32(0))) != whole)


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--corruptions", "fogg"], "nearest: fog"),
        (["--severities", "6"], "severity '6'"),
        (["--data=cifar10_corupted"], "nearest: cifar10_corrupted"),
        (["--data=cifar10_corrupted", "--draw_seed=1"], "--draw_seed is for the run's own images"),
        (["--draw_seed=-1"], "between 0 and"),
        (["--frost=nowhere"], "folder nowhere can't be read"),
    ],
)
def test_wrong_flags_are_one_line(flags, problem, finished_run, tmp_path, capsys):
    given = [f"--workdir={finished_run}", f"--output={tmp_path}", *flags]
    assert main(["analyse", "corruptions", *given]) == 2
    error = capsys.readouterr().err.strip()
    assert problem in error and "\n" not in error


def test_arrays_of_other_images_are_refused(finished_run, tmp_path, capsys):
    np.save(tmp_path / "fog.npy", np.zeros((5, 32, 32, 3), np.uint8))
    np.save(tmp_path / "labels.npy", np.zeros(5, int))
    flags = [f"--workdir={finished_run}", f"--output={tmp_path}", f"--data={tmp_path}"]
    assert main(["analyse", "corruptions", *flags, "--corruptions", "fog"]) == 2
    assert "the network takes [8, 8, 1]" in capsys.readouterr().err


def test_a_reference_of_other_images_is_refused(
    finished_run, tmp_path, against_other_images, capsys
):
    against_other_images(corruptions, "train_10_per_class")
    other = shutil.copytree(finished_run, tmp_path / "run")
    flags = [f"--workdir={finished_run}", f"--output={tmp_path}", f"--against={other}"]
    assert main(["analyse", "corruptions", *flags]) == 2
    assert "other images: its data set's eval_split is train_10" in capsys.readouterr().err


def test_a_corruption_needs_images_of_eight_pixels():
    with pytest.raises(UserError, match="at least 8 pixels"):
        corruptions.make_changer("fog", 1, (4, 8, 1), corruptions.Reading())


def test_a_run_is_not_compared_with_itself(finished_run, tmp_path, capsys):
    flags = [f"--workdir={finished_run}", f"--against={finished_run}/", f"--output={tmp_path}"]
    assert main(["analyse", "corruptions", *flags]) == 2
    assert "is the workdir itself" in capsys.readouterr().err
