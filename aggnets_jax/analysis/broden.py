"""Broden: images with labels of objects, parts, scenes, materials, textures and colours.

Bau, Zhou et al., "Network Dissection", CVPR 2017, arXiv 1704.05796. The folder has

    index.csv        image, split, ih, iw, sh, sw, then a column for each category with entries
                     that ";" separates: a number labels the whole image, and a file name is a
                     picture of labels, R + 256 G in each pixel, of sh x sw pixels
    label.csv        number, name, category, frequency, coverage, syns
    c_CATEGORY.csv   code, number, name, frequency, coverage
    images/          the images, of ih x iw pixels, and the pictures of labels

The labels have the numbers of label.csv; 0 is no label. The authors' broden1_224 is about 1 GB.
"""

import csv
import dataclasses
import functools
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from aggnets_jax.errors import UserError, unknown
from aggnets_jax.files import explained, read_text

CATEGORIES = ("object", "part", "scene", "material", "texture", "color")
"""The categories of Broden, in the order of the HCGNet paper's Figure 4."""

# Errors of int() and float() for a cell that is no number, or that a line lacks.
_NO_NUMBER = (ValueError, TypeError)


class Batch(NamedTuple):
    """Some images of the set with their labels.

    Attributes:
      images: uint8 [B, ih, iw, 3], RGB.
      maps: label of each pixel in each channel, int32 [B, C, sh, sw]; a category has as many
        channels as the most entries of it that one image has.
      whole: labels of whole images, int32 [B, W], filled up with 0.
    """

    images: np.ndarray
    maps: np.ndarray
    whole: np.ndarray


@dataclasses.dataclass(frozen=True)
class Broden:
    """A set in Broden's format.

    Attributes:
      folder: its folder.
      categories: names of the chosen categories.
      rows: lines of index.csv with a label in a chosen category.
      names: name of each label, by its number; [L], the name of 0 is "".
      primary: number of each label's category in `categories`, int [L]: of the one with the largest
        coverage of the label, or -1 if the label is in none of them.
    """

    folder: Path
    categories: tuple[str, ...]
    rows: tuple[dict[str, str], ...]
    names: tuple[str, ...]
    primary: np.ndarray

    @functools.cached_property
    def map_categories(self) -> np.ndarray:
        """The number of the category of each channel of a map, int [C]."""
        return self._channels(whole=False)

    @functools.cached_property
    def whole_categories(self) -> np.ndarray:
        """The number of the category of each label of a whole image, int [W]."""
        return self._channels(whole=True)

    def _channels(self, whole: bool) -> np.ndarray:
        most = [
            max(sum(entry.isdigit() == whole for entry in entries(row, each)) for row in self.rows)
            for each in self.categories
        ]
        return np.repeat(np.arange(len(most)), most)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield all images in order; the last batch may be smaller.

        Raises:
          UserError: a file is missing, damaged, of another size, or has an unknown label.
        """
        for start in range(0, len(self.rows), batch_size):
            yield self.read(np.arange(start, min(start + batch_size, len(self.rows))))

    def read(self, indices: Sequence[int]) -> Batch:
        """Read the images with these numbers, and their labels; raise as `batches`."""
        with ThreadPoolExecutor() as threads:
            read = list(threads.map(self._read, [self.rows[index] for index in indices]))
        images, maps, whole = map(np.stack, zip(*read, strict=True))
        return Batch(images, maps, whole)

    def _read(self, row: dict[str, str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        size = (int(row["ih"]), int(row["iw"]))
        image = self._picture(row["image"], size)
        labelled = (int(row["sh"]), int(row["sw"]))
        maps = np.zeros((len(self.map_categories), *labelled), np.int32)
        whole = np.zeros(len(self.whole_categories), np.int32)
        for number, category in enumerate(self.categories):
            channels = iter(np.flatnonzero(self.map_categories == number))
            places = iter(np.flatnonzero(self.whole_categories == number))
            for entry in entries(row, category):
                if entry.isdigit():
                    whole[next(places)] = int(entry)
                else:
                    pixels = self._picture(entry, labelled).astype(np.int32)
                    maps[next(channels)] = pixels[..., 0] + 256 * pixels[..., 1]
        largest = max(maps.max(initial=0), whole.max(initial=0))
        if largest >= len(self.names):
            where = self.folder / "label.csv"
            raise UserError(f"{row['image']} has the label {largest}, which {where} lacks")
        return image, maps, whole

    def _picture(self, name: str, size: tuple[int, int]) -> np.ndarray:
        file = self.folder / "images" / name
        try:
            with Image.open(file) as picture:
                pixels = np.asarray(picture.convert("RGB"))
        except OSError as error:
            why = getattr(error, "strerror", None) or "damaged, or not a picture"
            raise UserError(f"{file}: {why}") from None
        if pixels.shape[:2] != size:
            has = "x".join(map(str, pixels.shape[:2]))
            raise UserError(f"{file} has {has} pixels, and index.csv says {size[0]}x{size[1]}")
        return pixels


def entries(row: dict[str, str], category: str) -> list[str]:
    """Return the entries of a category in a line of index.csv."""
    return [entry.strip() for entry in (row[category] or "").split(";") if entry.strip()]


def open_broden(folder: str | Path, categories: Sequence[str] = CATEGORIES) -> Broden:
    """Read the tables of a folder in Broden's format.

    Raises:
      UserError: a table is missing or damaged, there is no such category, or no image has a label
        of the categories.
    """
    folder, categories = Path(folder), tuple(dict.fromkeys(categories))
    rows = _read_table(folder / "index.csv", ("image", "ih", "iw", "sh", "sw"))
    there = [name for name in rows[0] if name not in ("image", "split", "ih", "iw", "sh", "sw")]
    for category in categories:
        if category not in there:
            raise unknown("category", category, there)
    labelled = [row for row in rows if any(entries(row, category) for category in categories)]
    if not labelled:
        raise UserError(f"no image of {folder} has a label of {', '.join(categories)}")
    for key in (("ih", "iw"), ("sh", "sw")):
        sizes = {tuple(row[name] for name in key) for row in labelled}
        if len(sizes) > 1:
            raise UserError(f"{folder / 'index.csv'}: {' and '.join(key)} differ between images")
        with explained(f"{folder / 'index.csv'} is damaged", *_NO_NUMBER):
            least = min(map(int, sizes.pop()))
        if least < 1:
            raise UserError(f"{folder / 'index.csv'}: {' and '.join(key)} must be at least 1")
    table = _read_table(folder / "label.csv", ("number", "name"))
    with explained(f"{folder / 'label.csv'} is damaged", *_NO_NUMBER):
        labels = {int(row["number"]): row["name"] for row in table}
    if min(labels) < 0:
        raise UserError(f"{folder / 'label.csv'} has the number {min(labels)}; the least is 0")
    names = tuple(labels.get(number, "") for number in range(max(labels) + 1))
    coverage = np.full((len(categories), len(names)), -1.0)  # not listed; rare labels have 0
    for number, category in enumerate(categories):
        file = folder / f"c_{category}.csv"
        for row in _read_table(file, ("number", "coverage")):
            with explained(f"{file} is damaged", *_NO_NUMBER):
                label, share = int(row["number"]), float(row["coverage"])
            if label not in labels:
                raise UserError(f"{file} has the label {label}, which label.csv lacks")
            if not 0 <= share < np.inf:
                raise UserError(f"{file} has the coverage {share} of label {label}")
            if label > 0:
                coverage[number, label] = share
    primary = np.where(coverage.max(axis=0) >= 0, coverage.argmax(axis=0), -1)
    return Broden(folder, categories, tuple(labelled), names, primary)


def _read_table(file: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO(read_text(file))))
    for column in columns:
        if not rows or column not in rows[0]:
            raise UserError(f"{file} has no column {column}")
    return rows
