"""The images of a small CIFAR-10 as data sets from elsewhere, in every form that can be read."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.data.official_formats import _write_tar, prepare_small_cifar10

CLASSES = [f"class {k}" for k in range(10)]


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def write_npz(folder, official):
    arrays = {}
    for split, (images, labels) in official.items():
        arrays |= {f"x_{split}": images, f"y_{split}": labels[:, None]}
    np.savez(folder / "cifar10.npz", **arrays)
    return "npz", folder / "cifar10.npz"


def write_webdataset(folder, official, shards=3):
    for split, (images, labels) in official.items():
        numbers = np.array_split(np.arange(len(labels)), shards if split == "train" else 1)
        for shard, part in enumerate(numbers):
            files = {}
            for k in part:
                files |= {f"a/{k:05}.png": png(images[k]), f"a/{k:05}.cls": f"{labels[k]}".encode()}
            _write_tar(folder / f"cifar-{split}-{shard:06}.tar", files)
    return "webdataset", folder


def hf_dataset(images, labels):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)}
    )
    rows = {"img": [{"bytes": png(x), "path": None} for x in images], "label": labels}
    return datasets.Dataset.from_dict(rows, features)


def write_parquet(folder, official):
    for split, (images, labels) in official.items():
        (folder / "data").mkdir(exist_ok=True)
        file = folder / "data" / f"{split}-00000-of-00001.parquet"
        hf_dataset(images, labels).to_parquet(file)
    return "hf_dataset", folder


def write_arrow(folder, official):
    datasets = pytest.importorskip("datasets")
    splits = {split: hf_dataset(*arrays) for split, arrays in official.items()}
    datasets.DatasetDict(splits).save_to_disk(folder)
    return "hf_dataset", folder


def write_array_record(folder, official):
    pytest.importorskip("array_record")
    made = prepare_small_cifar10(
        folder, num_train=103, num_test=50, num_shards=3, file_format="array_record"
    )
    for split, arrays in official.items():
        for ours, theirs in zip(arrays, made[split], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    return "cifar10", folder


WRITERS = {
    "npz": write_npz,
    "webdataset": write_webdataset,
    "parquet": write_parquet,
    "arrow": write_arrow,
    "array_record": write_array_record,
}
