"""Reference figures and the weights and inputs they belong to, see tests/golden/README.md."""

import json
import zlib
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[1] / "golden"
FILES = sorted(path.stem for path in FOLDER.glob("*.json"))


def load(file: str) -> dict:
    return json.loads((FOLDER / f"{file}.json").read_text())


def state_dict(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    return {name: _entry(name, shape) for name, shape in shapes.items()}


def _entry(name: str, shape: list[int]) -> np.ndarray:
    random = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF)
    leaf = name.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_var":
        value = random.uniform(0.5, 1.5, shape)
    elif leaf in ("running_mean", "bias"):
        value = 0.1 * random.standard_normal(shape)
    elif len(shape) == 1:
        value = random.uniform(0.5, 1.5, shape)
    else:
        value = np.sqrt(2 / np.prod(shape[1:])) * random.standard_normal(shape)
    return np.asarray(value, np.float32)


def images_and_labels(golden: dict) -> tuple[np.ndarray, np.ndarray]:
    images = np.random.RandomState(0).standard_normal(golden["input"]).astype(np.float32)
    labels = np.random.RandomState(1).randint(0, golden["num_classes"], golden["input"][0])
    return images, labels
