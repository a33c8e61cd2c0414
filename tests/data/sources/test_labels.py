"""Odd labels and names of classes in data sets from elsewhere."""

import numpy as np
import pytest

from aggnets_jax.data import describe, eval_batches
from aggnets_jax.data.sources import hf_dataset
from aggnets_jax.errors import UserError
from tests.data.conftest import make_config
from tests.data.foreign_sets import png
from tests.data.official_formats import _write_tar

IMAGES, LABELS = np.zeros((4, 8, 6), np.uint8), np.arange(4) % 2


def make_npz(path, **arrays):
    both = {"x_train": IMAGES, "x_test": IMAGES, "y_train": LABELS, "y_test": LABELS, **arrays}
    np.savez(path / "set.npz", **both)
    return make_config("npz", path / "set.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"class_names": ["a"]}, r"class_names of .*set.npz has 1 names, the labels need 2"),
        ({"class_names": ["a", "a"]}, r"set.npz has the class 'a' 2 times; names must differ"),
        ({"class_names": ["a\nb", "c"]}, r"set.npz has the class 'a\\nb'; names must be lines"),
        ({"y_train": LABELS.astype(np.uint64) + 2**63}, r"must be below 2\*\*31, got 92233720368"),
        ({"x_train": IMAGES[:, :0], "x_test": IMAGES[:, :0]}, r"got uint8 \[4, 0, 6, 1\]"),
    ],
)
def test_wrong_names_and_labels(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message):
        describe(make_npz(tmp_path, **arrays))


def test_names_may_be_bytes(tmp_path):
    names = np.array([b"caf\xc3\xa9", b"tea"])
    assert describe(make_npz(tmp_path, class_names=names)).class_names == ("café", "tea")


def test_classes_without_images_are_counted(tmp_path, capfd):
    """Labels that begin at 1, as MATLAB's, or have gaps, as COCO's categories."""
    config = make_npz(tmp_path, y_train=10 * LABELS + 10, y_test=10 * LABELS + 10)
    assert describe(config).num_classes == 21
    told = "19 of the 21 classes of {} have no images, such as 0: classes are numbered from 0 to"
    assert told.format(tmp_path / "set.npz") in capfd.readouterr().err
    describe(make_npz(tmp_path))
    assert not capfd.readouterr().err


def test_names_of_shards_with_a_byte_order_mark(tmp_path):
    """Windows' editors write one."""
    files = {"a.png": png(IMAGES[0]), "a.cls": b"0", "b.png": png(IMAGES[1]), "b.cls": b"1"}
    for split in ("train", "test"):
        _write_tar(tmp_path / f"{split}-0.tar", files)
    (tmp_path / "classes.txt").write_bytes("\ufeffcat\r\ndog\r\n".encode())
    assert describe(make_config("webdataset", tmp_path)).class_names == ("cat", "dog")


def write_splits(folder, **splits):
    """Save splits with columns of images and of labels 0 to 2, by names of columns and classes."""
    datasets = pytest.importorskip("datasets")

    def rows(label, classes):
        kind = datasets.ClassLabel(names=classes) if classes else datasets.Value("int64")
        features = datasets.Features({"image": datasets.Image(), label: kind})
        images = [{"bytes": png(image), "path": None} for image in IMAGES]
        return datasets.Dataset.from_dict({"image": images, label: [0, 1, 2, None]}, features)

    made = {split: rows(*columns) for split, columns in splits.items()}
    datasets.DatasetDict(made).save_to_disk(folder)


def test_classes_of_splits_in_other_orders(tmp_path):
    write_splits(tmp_path, train=("label", "abc"), test=("label", "cab"), more=("label", None))
    opened = hf_dataset.open_folder(tmp_path)
    assert opened.class_names == ("a", "b", "c")
    assert {split: rows.labels.tolist() for split, rows in opened.splits.items()} == {
        "train": [0, 1, 2, -1],
        "test": [2, 0, 1, -1],
        "more": [0, 1, 2, -1],
    }
    assert opened.splits["test"].read(0)[1] == 2


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (
            {"test": ("label", "abd")},
            "test of .* differs from other splits in its classes: 'c', 'd'",
        ),
        ({"test": ("lab", "abc")}, "test of .* lacks train's column 'label'; it has: image, lab"),
    ],
)
def test_splits_that_do_not_fit(tmp_path, splits, message):
    write_splits(tmp_path, train=("label", "abc"), **splits)
    with pytest.raises(UserError, match=message):
        describe(make_config("hf_dataset", tmp_path))


def test_a_data_set_without_splits(tmp_path):
    write_splits(tmp_path)
    with pytest.raises(UserError, match="is a data set without splits"):
        describe(make_config("hf_dataset", tmp_path))


def write_rows(folder, feature, labels):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": feature(datasets)})
    images = [{"bytes": png(image), "path": None} for image in IMAGES]
    rows = datasets.Dataset.from_dict({"image": images, "label": labels}, features)
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(folder)
    return make_config("hf_dataset", folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "labels", "got"),
    [
        ("float32", [0, 1.5, 1, 0], r"float32 \[4\]"),
        ("string", ["a", "b", "a", "b"], r"<U1 \[4\]"),
        (["int64"], [[0], [1], [0], [1]], r"int64 \[4, 1\]"),
    ],
)
def test_a_column_of_other_labels(tmp_path, kind, labels, got):
    def feature(datasets):
        return datasets.Value(kind) if isinstance(kind, str) else [datasets.Value(kind[0])]

    message = f"'label' of .* must have whole numbers or names of classes, got {got}"
    with pytest.raises(UserError, match=message):
        describe(write_rows(tmp_path, feature, labels))


@pytest.mark.slow
def test_rows_without_a_label(tmp_path, sharding):
    config = write_rows(tmp_path, lambda datasets: datasets.ClassLabel(2), [0, None, 1, 0])
    assert describe(config).num_classes == 2
    with pytest.raises(UserError, match="has examples without a label between 0 and 1, such as -1"):
        next(iter(eval_batches(config, batch_size=4, sharding=sharding)))
