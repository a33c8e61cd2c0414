"""An .npz file of images and labels, named as by Keras or as by MedMNIST.

    x_train  y_train  x_test  y_test
    train_images  train_labels  val_images  val_labels  test_images  test_labels

Images are uint8 [N, height, width] or [N, height, width, 1 or 3], labels whole numbers [N] or
[N, 1]. `class_names`, texts [classes], may be beside them. Nothing is unpickled.
"""

import io
import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image

from aggnets_jax.data.examples import Examples
from aggnets_jax.data.numpy_files import read_array
from aggnets_jax.data.sources.opened import Opened, numbered_classes
from aggnets_jax.errors import UserError, one_line
from aggnets_jax.files import explained

_NAMES = (("x_{}", "y_{}"), ("{}_images", "{}_labels"))
_SPLITS = ("train", "val", "validation", "test")


class Arrays(Examples):
    """Images in memory, uint8 [N, height, width, channels], and their labels, int64 [N]."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, place: str) -> None:
        self.labels = labels
        self._images = images
        self._place = place

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int) -> tuple[bytes, int]:
        """Return the image as a PNG, which has its exact values."""
        image, content = self._images[index], io.BytesIO()
        flat = image[..., 0] if image.shape[-1] == 1 else image
        Image.fromarray(flat).save(content, "PNG", compress_level=0)
        return content.getvalue(), int(self.labels[index])

    def place(self, index: int) -> str:
        """Return the name of the array, and the number of the image in it."""
        return f"image {index} of {self._place}"


def open_file(path: Path) -> Opened:
    """Open an .npz file.

    Raises:
      UserError: if it can't be read, or has no such arrays.
    """
    damaged = f"{path} can't be read as an .npz file"
    with explained(damaged, Exception), zipfile.ZipFile(path) as archive:  # see `read_array`
        there = [name.removesuffix(".npy") for name in archive.namelist()]
        names = {split: pair for split in _SPLITS if (pair := _pair(there, split))}
        arrays = {split: [_array(archive, name) for name in names[split]] for split in names}
        class_names = _array(archive, "class_names") if "class_names" in there else None
    if not names:
        raise UserError(
            f"{path} has no x_train and y_train, or train_images and train_labels, but "
            + one_line(", ".join(map(repr, there)) or "nothing")
        )
    splits = {split: _examples(f"{names[split][0]} of {path}", *arrays[split]) for split in names}
    shapes = {examples._images.shape[1:] for examples in splits.values()}
    if len(shapes) > 1:
        raise UserError(f"the splits of {path} have images of several shapes")
    if class_names is None:
        labels = [examples.labels for examples in splits.values()]
        classes = numbered_classes(labels, str(path))
    else:  # texts, or bytes from a NumPy array of fixed width
        texts = np.ravel(class_names)
        texts = np.char.decode(texts, errors="replace") if texts.dtype.kind == "S" else texts
        classes = tuple(map(str, texts))
        needed = 1 + max(int(examples.labels.max(initial=-1)) for examples in splits.values())
        if len(classes) < needed:
            raise UserError(
                f"class_names of {path} has {len(classes)} names, the labels need {needed}"
            )
    return Opened(splits, classes, shapes.pop())


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        return read_array(file)


def _pair(there: Collection[str], split: str) -> tuple[str, str] | None:
    for images, labels in _NAMES:
        if images.format(split) in there and labels.format(split) in there:
            return images.format(split), labels.format(split)
    return None


def _examples(place: str, images: np.ndarray, labels: np.ndarray) -> Arrays:
    if images.ndim == 3:
        images = images[..., None]
    sides = images.shape[1:3]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in sides:
        raise UserError(
            f"{place} must be uint8 [N, height, width] or [N, height, width, 1 or 3], got"
            f" {images.dtype} {list(images.shape)}"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"the labels of {place} must be {len(images)} whole numbers, got {labels.dtype}"
            f" {list(labels.shape)}"
        )
    if len(labels) and labels.max() >= 2**31:  # of unsigned numbers, which would become negative
        raise UserError(f"the labels of {place} must be below 2**31, got {labels.max()}")
    return Arrays(images, labels.astype(np.int64), place)
