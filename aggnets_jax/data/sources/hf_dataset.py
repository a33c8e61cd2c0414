"""Data sets of Hugging Face's `datasets` on this machine, with a column of images and of labels.

The folder is a repository's, with parquet files such as data/train-00000-of-00001.parquet, or of
`save_to_disk`. Parquet files are copied once to Arrow files in the cache of `datasets`, from which
rows are read in any order.
"""

from pathlib import Path
from typing import Any

import numpy as np

from aggnets_jax.data.examples import Examples
from aggnets_jax.data.sources.opened import Opened, numbered_classes
from aggnets_jax.errors import UserError, import_optional
from aggnets_jax.files import explained

# Names of columns, if several columns have the type of images or of classes, or none has.
_IMAGES, _LABELS = ("image", "img"), ("label", "labels")
_MISSING = "data set hf_dataset needs the package datasets: pip install 'aggnets-jax[datasets]'"


class Rows(Examples):
    """Rows of a data set, whose images are still encoded."""

    def __init__(self, rows: Any, image: str, label: str, place: str) -> None:
        self._rows, self._image, self._label, self._place = rows, image, label, place
        labels = rows.select_columns([label]).with_format("numpy")[:][label]
        self.labels = _whole_numbers(np.asarray(labels), f"the column {label!r} of {place}")

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
      UserError: if there is no data set in it, or none with a column of images and one of labels.
    """
    datasets = import_optional("datasets", _MISSING)
    if not path.is_dir():
        raise UserError(f"data_dir {path} is no folder of a data set")
    datasets.disable_progress_bars()
    saved = any((path / name).exists() for name in ("dataset_dict.json", "state.json"))
    read = datasets.load_from_disk if saved else datasets.load_dataset
    with explained(f"{path} can't be read as a data set", Exception):  # of the library, many kinds
        loaded = read(str(path))
    if isinstance(loaded, datasets.Dataset):
        loaded = {str(loaded.split or "train"): loaded}
    features = next(iter(loaded.values())).features
    image = _column(path, features, datasets.Image, _IMAGES, "images")
    label = _column(path, features, datasets.ClassLabel, _LABELS, "labels")
    undecoded = datasets.Image(decode=False)
    with explained(f"column {image!r} of {path} has no images", Exception):  # of Arrow, many kinds
        loaded = {split: rows.cast_column(image, undecoded) for split, rows in loaded.items()}
    splits = {
        split: Rows(rows, image, label, f"{split} of {path}") for split, rows in loaded.items()
    }
    names = getattr(features[label], "names", None)
    classes = names or numbered_classes([rows.labels for rows in splits.values()], str(path))
    return Opened(splits, tuple(classes))


def _whole_numbers(labels: np.ndarray, place: str) -> np.ndarray:
    """Return labels as int64 [N], -1 for rows without one; they are numbers, which may be floats.

    Raises:
      UserError: for text, lists, and numbers that are not whole.
    """
    number = labels.ndim == 1 and labels.dtype.kind in "biuf"
    # `datasets` makes floats of whole numbers if some are missing.
    given = np.nan_to_num(labels, nan=-1.0) if number and labels.dtype.kind == "f" else labels
    if not number or np.any((given != np.floor(given)) | (abs(given) >= 2**31)):
        kinds = f"{labels.dtype} {list(labels.shape)}"
        raise UserError(f"{place} must have whole numbers or names of classes, got {kinds}")
    return given.astype(np.int64)


def _column(path: Path, features: Any, kind: type, names: tuple[str, ...], what: str) -> str:
    """Return the only column of a kind; if there are several or none, the one with such a name."""
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(found) == 1:
        return found[0]
    named = [name for name in names if name in (found or features)]
    if named:
        return named[0]
    raise UserError(
        f"{path} must have one column of {what}, or one that is called {' or '.join(names)}; its"
        f" columns: {', '.join(features)}"
    )
