"""Corrupted sets in their authors' formats."""

import numpy as np
import pytest

from aggnets_jax.data.corrupted_sets import (
    PREPARED,
    find_folder,
    has_arrays,
    prepared_name,
    read_arrays,
)
from aggnets_jax.data.corruptions import CORRUPTIONS, SEVERITIES
from aggnets_jax.errors import UserError


def write_set(folder, images, labels):
    folder.mkdir(exist_ok=True)
    np.save(folder / "fog.npy", images)
    np.save(folder / "labels.npy", labels)
    return folder


def test_a_severity_is_a_fifth_of_the_file(tmp_path):
    images = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    for labels in (np.tile([3, 7], 5), np.array([3, 7])):
        folder = write_set(tmp_path / "c", images, labels)
        assert has_arrays(folder)
        found, there = read_arrays(folder, "fog", 4)
        assert found[:, 0, 0, 0].tolist() == [6, 7] and there.tolist() == [3, 7]


@pytest.mark.parametrize(
    ("images", "labels", "problem"),
    [
        (np.zeros((10, 4, 4, 3)), np.zeros(10, int), "float64"),
        (np.zeros((9, 4, 4, 3), np.uint8), np.zeros(9, int), r"\[9, 4, 4, 3\]"),
        (np.zeros((10, 4, 4, 3), np.uint8), np.zeros(3, int), r"labels.npy \[3\]"),
        (np.zeros((0, 4, 4, 3), np.uint8), np.zeros(0, int), r"\[0, 4, 4, 3\]"),
        (np.uint8(0), np.zeros(10, int), r"uint8 \[\] and"),
        (np.array([{}]), np.zeros(1, int), "fog.npy can't be read"),  # a pickle is not opened
    ],
)
def test_other_files_are_refused(images, labels, problem, tmp_path):
    folder = write_set(tmp_path, images, labels)
    with pytest.raises(UserError, match=problem):
        read_arrays(folder, "fog", 1)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"snow\.npy can't be read"):
        read_arrays(tmp_path, "snow", 1)
    with pytest.raises(UserError, match="a folder snow"):
        find_folder(tmp_path, "snow")


def test_folders_may_be_in_groups(tmp_path):
    (tmp_path / "weather" / "fog" / "1").mkdir(parents=True)
    assert find_folder(tmp_path, "fog") == tmp_path / "weather" / "fog"
    (tmp_path / "fog").mkdir()
    assert find_folder(tmp_path, "fog") == tmp_path / "fog"


def test_folders_that_macos_adds_are_no_groups(tmp_path):
    for group in ("__MACOSX", "weather"):
        (tmp_path / ".c" / group / "fog").mkdir(parents=True)
    assert find_folder(tmp_path / ".c", "fog") == tmp_path / ".c" / "weather" / "fog"


def test_a_damaged_header_is_one_line(tmp_path):
    write_set(tmp_path, np.zeros((5, 4, 4, 3), np.uint8), np.zeros(5, int))
    whole = (tmp_path / "labels.npy").read_bytes()
    for damaged in (whole.replace(b"(5,)", b"(4,)"), whole.replace(b"(5,)", b"(5,(")):
        (tmp_path / "labels.npy").write_bytes(damaged)
        with pytest.raises(UserError, match=r"labels\.npy can't be read: "):
            read_arrays(tmp_path, "fog", 1)


@pytest.mark.parametrize("name", PREPARED)
def test_prepared_sets_have_all_corruptions(name):
    tfds = pytest.importorskip("tensorflow_datasets")
    known = tfds.builder_cls(name).builder_configs
    for corruption in CORRUPTIONS:
        for severity in SEVERITIES:
            assert prepared_name(name, corruption, severity).partition("/")[2] in known
