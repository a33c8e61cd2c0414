"""Data sets from elsewhere, on this machine: opened by their name in `config.data.name`.

To add one, write a function that opens its `data_dir` and returns `Opened`, and list it in
`SOURCES`; see `aggnets_jax.data.examples`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from aggnets_jax.data.examples import Examples, Joined, Piece
from aggnets_jax.data.folders import files_below
from aggnets_jax.data.sources import hf_dataset, npz, webdataset
from aggnets_jax.data.sources.opened import check_names
from aggnets_jax.data.sources.sizes import one_shape
from aggnets_jax.data.split_info import SetInfo, make_info, pieces_of
from aggnets_jax.errors import UserError
from aggnets_jax.files import local_path

SOURCES = {
    "hf_dataset": hf_dataset.open_folder,
    "npz": npz.open_file,
    "webdataset": webdataset.open_folder,
}


class Source(NamedTuple):
    """A data set from elsewhere, in the form of a TFDS builder.

    Attributes:
      name: one of `SOURCES`.
      data_dir: folder or file of the set.
      examples: examples of each split.
      info: features and splits, as TFDS has them.
    """

    name: str
    data_dir: str
    examples: Mapping[str, Examples]
    info: SetInfo

    def select(self, split: str) -> Examples:
        """Return the examples of a split, which may be a slice or a sum, in reading order."""
        pieces = []
        for piece in pieces_of(self.info, split):
            examples = self.examples[piece.splitname]
            start, end, _ = slice(piece.from_, piece.to).indices(len(examples))
            pieces.append(Piece(examples, start, end))
        return Joined(pieces)


def open_source(name: str, data_dir: str | None) -> Source:
    """Return a data set from elsewhere; it is opened again only if its files have changed.

    Args:
      name: one of `SOURCES`.
      data_dir: folder or file of the set.

    Raises:
      UserError: if data_dir is None, in a bucket, not there, or of another form.
    """
    if data_dir is None:
        raise UserError(f"data set {name} needs data_dir")
    if "://" in data_dir:
        raise UserError(f"data set {name} must be on this machine: {data_dir} is in a bucket")
    path = local_path(data_dir)
    if not path.exists():
        raise UserError(f"data_dir {data_dir} does not exist")
    files = [*map(Path, files_below(str(path)))] if path.is_dir() else [path]
    return _open(name, path, tuple(map(_state, files)))


def _state(file: Path) -> tuple[str, int, int]:
    """Return what changes with a file; it may be a link to none."""
    if not file.is_file():
        return str(file), 0, 0
    return str(file), file.stat().st_mtime_ns, file.stat().st_size


@functools.lru_cache(maxsize=4)
def _open(name: str, path: Path, state: tuple[tuple[str, int, int], ...]) -> Source:
    del state  # changed files are another key of the cache
    opened = SOURCES[name](path)
    check_names(opened.class_names, str(path))
    counts = {split: len(examples) for split, examples in opened.splits.items()}
    shape = opened.shape or one_shape(opened.splits.values())
    info = make_info(name, str(path), counts, opened.class_names, shape)
    return Source(name, str(path), opened.splits, info)
