"""A folder of images as a data set: DIR/train/CLASS/*.jpg and DIR/test/CLASS/*.jpg, or PNGs.

TFDS's ImageFolder finds the files and puts them into a fixed, mixed order, so that a slice of a
split has files of all classes. Its pipeline is not used, because its shuffling has no seed and it
cannot slice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from aggnets_jax.data.tf_runtime import import_tensorflow
from aggnets_jax.errors import UserError, one_line

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

IMAGE_FOLDER = "image_folder"
ENDINGS = (".jpg", ".jpeg", ".png")


def open_folder(data_dir: str | None) -> tfds.folder_dataset.ImageFolder:
    """Return the builder of a folder of images; each folder in it is a split.

    Raise `UserError` if data_dir, local or in a bucket, is None or holds no such folders.
    """
    import_tensorflow()
    import tensorflow_datasets as tfds

    if data_dir is None:
        raise UserError(f"data set {IMAGE_FOLDER} needs data_dir: a folder with train/CLASS/*.jpg")
    builder = tfds.folder_dataset.ImageFolder(data_dir)
    if not builder.info.splits:
        raise UserError(f"data_dir {data_dir} holds no images: it needs train/CLASS/*.jpg")
    return builder


def list_classes(
    builder: tfds.folder_dataset.ImageFolder, train_split: str, eval_split: str
) -> tuple[str, ...]:
    """Return the sorted names of the classes: the folders in the whole folders of both splits.

    Raise `UserError` if a class has no images, or is in only one of the two splits.
    """
    train, evaluation = (_classes(builder, split) for split in (train_split, eval_split))
    differing = [
        f"only in {split!r}: {', '.join(map(repr, sorted(names)))}"
        for split, names in ((train_split, train - evaluation), (eval_split, evaluation - train))
        if names
    ]
    if differing:
        raise UserError(
            one_line(f"the splits of {builder.data_dir} differ in their classes; {differing[0]}")
        )
    return tuple(sorted(train))


def _classes(builder: tfds.folder_dataset.ImageFolder, split: str) -> set[str]:
    folders = sorted({piece.splitname for piece in _pieces(builder, split)})
    found = {example.label for folder in folders for example in builder._split_examples[folder]}
    for name in sorted({*builder.info.features["label"].names} - found):
        for folder in folders:
            path = epath.Path(builder.data_dir, folder, name)
            if path.is_dir():
                raise UserError(f"{path} holds no images ({', '.join(ENDINGS)})")
    return found


def list_examples(
    builder: tfds.folder_dataset.ImageFolder, split: str, class_names: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the files, str [N], and labels, int64 [N], of a split in reading order.

    The split may be a slice or sum of folders; `class_names` are in the order of the labels.
    """
    # TFDS has no public way to the names of the files.
    examples = [
        example
        for piece in _pieces(builder, split)
        for example in builder._split_examples[piece.splitname][piece.from_ : piece.to]
    ]
    numbers = {name: number for number, name in enumerate(class_names)}
    labels = np.array([numbers[example.label] for example in examples], np.int64)
    return np.array([example.image_path for example in examples]), labels


def _pieces(builder: tfds.folder_dataset.ImageFolder, split: str) -> list:
    """Return the parts of a split, each with `splitname`, `from_` and `to`."""
    import tensorflow_datasets as tfds

    splits = builder.info.splits
    # A folder may have any name, also one that is no expression of splits.
    parse = tfds.core.ReadInstruction if split in splits else tfds.core.ReadInstruction.from_spec
    return parse(split).to_absolute(splits)
