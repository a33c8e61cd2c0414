"""A folder of images as a data set: DIR/train/CLASS/*.jpg and DIR/test/CLASS/*.jpg.

A class consists of the images in its folder and below. Files come in the fixed, mixed order of
TFDS's `ImageFolder`, so a slice of a split has files of all classes. The class of TFDS is not used,
because it takes hidden files for images, reads only two formats, and cannot slice.
"""

import collections
import contextlib
import os
import random
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import NamedTuple

import numpy as np
from etils import epath

from aggnets_jax.data.folders import files_below, walk
from aggnets_jax.data.split_info import SetInfo, make_info, pieces_of
from aggnets_jax.errors import UserError, one_line
from aggnets_jax.files import is_line
from aggnets_jax.runtime.notes import print_once

IMAGE_FOLDER = "image_folder"
ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class ImageFolder(NamedTuple):
    """A folder of images, in the form of a TFDS builder.

    Attributes:
      data_dir: the folder, local or in a bucket.
      files: pairs of a file and its class, in reading order, by split.
      info: features and splits, as TFDS has them.
    """

    data_dir: str
    files: Mapping[str, Sequence[tuple[str, str]]]
    info: SetInfo
    name: str = IMAGE_FOLDER


# The folders that `listing_once` has listed, by data_dir.
_listed: ContextVar[dict[str, ImageFolder] | None] = ContextVar("listed", default=None)


@contextlib.contextmanager
def listing_once() -> Iterator[None]:
    """List each folder once in this context, so that a run has one view of a folder that grows.

    Listing a large folder in a bucket takes minutes.
    """
    outer = _listed.get()
    token = _listed.set({} if outer is None else outer)
    try:
        yield
    finally:
        _listed.reset(token)


def open_folder(data_dir: str | None) -> ImageFolder:
    """Return a folder of images; each folder in it is a split, and each folder in these a class.

    Files that are left out are counted in a line on stderr for each split.

    Raise `UserError` if data_dir, local or in a bucket, is None or holds no such folders.
    """
    if data_dir is None:
        raise UserError(f"data set {IMAGE_FOLDER} needs data_dir: a folder with train/CLASS/*.jpg")
    listed = _listed.get()
    if listed is None:
        return _list_folder(data_dir)
    if data_dir not in listed:
        listed[data_dir] = _list_folder(data_dir)
    return listed[data_dir]


def _list_folder(data_dir: str) -> ImageFolder:
    found: dict[str, list[tuple[str, str]]] = {}
    class_names = set()
    for split in sorted(next(walk(data_dir))[1]):
        path = os.path.join(data_dir, split)
        examples, classes = _list_split(path)
        class_names |= classes
        random.Random(split).shuffle(examples)
        if classes:
            found[split] = examples
    if not found:
        raise UserError(f"data_dir {data_dir} holds no images: it needs train/CLASS/*.jpg")
    counts = {split: len(examples) for split, examples in found.items()}
    return ImageFolder(
        data_dir, found, make_info(IMAGE_FOLDER, data_dir, counts, sorted(class_names))
    )


def _list_split(folder: str) -> tuple[list[tuple[str, str]], set[str]]:
    """Return the pairs of a file and its class, by name, and the classes, also those without."""
    _, classes, beside = next(walk(folder))
    examples, left_out = [], [*beside]
    for name in sorted(classes):
        if not is_line(name):
            place = os.path.join(folder, name)
            raise UserError(f"the folder {place!a} has no name that can be printed")
        images, others = find_files(os.path.join(folder, name))
        examples += [(image, _composed(name)) for image in images]
        left_out += others
    report_left_out(folder, left_out)
    return examples, set(map(_composed, classes))


def _composed(name: str) -> str:
    """Return a name in Unicode's composed form; macOS may store accents as letters of their own."""
    return unicodedata.normalize("NFC", name)


def find_files(folder: str) -> tuple[list[str], list[str]]:
    """Return the images in a folder and below, sorted, and the files that are none.

    Hidden files and folders, and those that systems add, are neither.

    Raises:
      UserError: a folder can't be read.
    """
    images, others = [], []
    for file in files_below(folder):
        image = os.path.splitext(file)[1].lower() in ENDINGS
        (images if image else others).append(file)
    return images, others


def report_left_out(folder: str, files: Iterable[str]) -> None:
    """Print how many files of a folder are no images of a class, by ending, in one line, once."""
    endings = collections.Counter(os.path.splitext(file)[1].lower() for file in files)
    if endings:
        counts = [f"{n} {end or 'without an ending'}" for end, n in sorted(endings.items())]
        print_once(f"left out in {folder}: {', '.join(counts)}")


def list_classes(folder: ImageFolder, train_split: str, eval_split: str) -> tuple[str, ...]:
    """Return the sorted names of the classes: the folders in the whole folders of both splits.

    Raise `UserError` if a class has no images, or is in only one of the two splits.
    """
    train, evaluation = (_classes(folder, split) for split in (train_split, eval_split))
    differing = [
        f"only in {split!r}: {', '.join(map(repr, sorted(names)))}"
        for split, names in ((train_split, train - evaluation), (eval_split, evaluation - train))
        if names
    ]
    if differing:
        raise UserError(
            one_line(f"the splits of {folder.data_dir} differ in their classes; {differing[0]}")
        )
    return tuple(sorted(train))


def _classes(folder: ImageFolder, split: str) -> set[str]:
    splits = sorted({piece.splitname for piece in pieces_of(folder.info, split)})
    found = {name for each in splits for _, name in folder.files[each]}
    for name in sorted({*folder.info.features["label"].names} - found):
        for each in splits:
            path = epath.Path(folder.data_dir, each, name)
            if path.is_dir():
                raise UserError(f"{path} holds no images ({', '.join(ENDINGS)})")
    return found


def list_examples(
    folder: ImageFolder, split: str, class_names: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the files, str [N], and labels, int64 [N], of a split in reading order.

    The split may be a slice or sum of folders; `class_names` are in the order of the labels.
    """
    examples = [
        example
        for piece in pieces_of(folder.info, split)
        for example in folder.files[piece.splitname][piece.from_ : piece.to]
    ]
    numbers = {name: number for number, name in enumerate(class_names)}
    labels = np.array([numbers[name] for _, name in examples], np.int64)
    return np.array([file for file, _ in examples]), labels
