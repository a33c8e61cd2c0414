"""Data sets of Hugging Face's `datasets` on this machine, with a column of images and of labels.

The folder is a repository's, with parquet files such as data/train-00000-of-00001.parquet, or of
`save_to_disk`. Parquet files are copied once to Arrow files in the cache of `datasets`, from which
rows are read in any order.
"""

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from aggnets_jax.data.examples import Examples
from aggnets_jax.data.folders import is_visible
from aggnets_jax.data.sources.opened import Opened, numbered_classes
from aggnets_jax.errors import UserError, import_optional, one_line
from aggnets_jax.files import explained

# Names of columns, if several columns have the type of images or of classes, or none has.
_IMAGES, _LABELS = ("image", "img"), ("label", "labels")
_MISSING = "data set hf_dataset needs the package datasets: pip install 'aggnets-jax[datasets]'"


class Rows(Examples):
    """Rows of a data set, whose images are still encoded.

    The classes of the labels have the order of `names`, which may be another order than that of the
    rows; None: they are numbers.
    """

    def __init__(
        self, rows: Any, image: str, label: str, names: Sequence[str] | None, place: str
    ) -> None:
        self._rows, self._image, self._label, self._place = rows, image, label, place
        labels = rows.select_columns([label]).with_format("numpy")[:][label]
        numbers = _whole_numbers(np.asarray(labels), f"the column {label!r} of {place}")
        self.labels = _renumbered(numbers, _names(rows, label), names, place)

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> tuple[bytes, int]:
        """Read the image from the row, or from the file that the row names."""
        row = self._rows[index]
        image = row[self._image]
        content = image["bytes"]
        content = Path(image["path"]).read_bytes() if content is None else content
        return content, int(self.labels[index])

    def place(self, index: int) -> str:
        """Return the number of the row."""
        return f"row {index} of {self._place}"


def open_folder(path: Path) -> Opened:
    """Open a folder.

    Raises:
      UserError: if there is no data set in it, or none with a column of images and one of labels,
        or if its splits differ in their columns or classes.
    """
    datasets = import_optional("datasets", _MISSING)
    if not path.is_dir():
        raise UserError(f"data_dir {path} is no folder of a data set")
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it prints errors that it raises
    saved = any((path / name).exists() for name in ("dataset_dict.json", "state.json"))
    with explained(f"{path} can't be read as a data set", Exception):  # of the library, many kinds
        loaded = datasets.load_from_disk(str(path)) if saved else _load_files(datasets, path)
    if isinstance(loaded, datasets.Dataset):
        loaded = {str(loaded.split or "train"): loaded}
    if not loaded:
        raise UserError(f"{path} is a data set without splits")
    first, features = next((split, rows.features) for split, rows in loaded.items())
    image = _column(f"{first} of {path}", features, datasets.Image, _IMAGES, "images")
    label = _column(f"{first} of {path}", features, datasets.ClassLabel, _LABELS, "labels")
    for split, rows in loaded.items():
        for column in sorted({image, label} - {*rows.features}):
            has = ", ".join(rows.features)
            raise UserError(f"{split} of {path} lacks {first}'s column {column!r}; it has: {has}")
        with explained(f"column {image!r} of {split} of {path} has no images", Exception):
            loaded[split] = rows.cast_column(image, datasets.Image(decode=False))
    names = next(filter(None, (_names(rows, label) for rows in loaded.values())), None)
    splits = {
        split: Rows(rows, image, label, names, f"{split} of {path}")
        for split, rows in loaded.items()
    }
    classes = names or numbered_classes([rows.labels for rows in splits.values()], str(path))
    return Opened(splits, tuple(classes))


def _load_files(datasets: ModuleType, path: Path) -> Mapping[str, Any]:
    """Load a repository; without the files that systems add, of which `datasets` knows most."""
    builder = datasets.load_dataset_builder(str(path))
    found = builder.config.data_files
    visible = {split: [file for file in found[split] if _is_data(path, file)] for split in found}
    if any(len(visible[split]) < len(found[split]) for split in found):
        patterns = {split: [*map(glob.escape, files)] for split, files in visible.items() if files}
        builder = datasets.load_dataset_builder(str(path), data_files=patterns)
    builder.download_and_prepare()
    return builder.as_dataset()


def _is_data(folder: Path, file: str) -> bool:
    """Return whether a file has no name that hides it, in a folder that may have one."""
    return is_visible(file.removeprefix(str(folder.resolve())))


def _names(rows: Any, label: str) -> Sequence[str] | None:
    return getattr(rows.features[label], "names", None)


def _renumbered(
    labels: np.ndarray, own: Sequence[str] | None, names: Sequence[str] | None, place: str
) -> np.ndarray:
    """Return labels by their own names as labels by the same names in another order.

    Raises:
      UserError: if the names are others.
    """
    if own is None or own == names:
        return labels
    if differing := sorted({*own} ^ {*names}):
        listed = one_line(", ".join(map(repr, differing)))
        raise UserError(f"{place} differs from other splits in its classes: {listed}")
    places = {name: number for number, name in enumerate(names)}
    known = (labels >= 0) & (labels < len(own))
    numbers = np.array([places[name] for name in own])
    return np.where(known, numbers[np.where(known, labels, 0)], labels)


def _whole_numbers(labels: np.ndarray, place: str) -> np.ndarray:
    """Return labels as int64 [N], -1 for rows without one; they are numbers, which may be floats.

    Raises:
      UserError: for text, lists, and numbers that are not whole or too large.
    """
    number = labels.ndim == 1 and labels.dtype.kind in "biuf"
    # `datasets` makes floats of whole numbers if some are missing.
    given = np.nan_to_num(labels, nan=-1.0) if number and labels.dtype.kind == "f" else labels
    if number and np.any(abs(given) >= 2**31):
        raise UserError(f"{place} must be below 2**31")
    if not number or np.any(given != np.floor(given)):
        kinds = f"{labels.dtype} {list(labels.shape)}"
        raise UserError(f"{place} must have whole numbers or names of classes, got {kinds}")
    return given.astype(np.int64)


def _column(place: str, features: Any, kind: type, names: tuple[str, ...], what: str) -> str:
    """Return the only column of a kind; if there are several or none, the one with such a name."""
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(found) == 1:
        return found[0]
    named = [name for name in names if name in (found or features)]
    if named:
        return named[0]
    raise UserError(
        f"{place} must have one column of {what}, or one that is called {' or '.join(names)}; its"
        f" columns: {', '.join(features)}"
    )
