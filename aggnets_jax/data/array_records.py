"""Prepared TFDS sets in array_record files, whose records are read in any order.

Grain's loaders read these files, too: `tfds.builder(NAME, file_format="array_record")` or
`aggnets prepare-data --file_format=array_record` makes them.
"""

from __future__ import annotations

import importlib

import numpy as np
from etils import epath

from aggnets_jax.data.dataset_info import Split, feature_keys
from aggnets_jax.data.examples import Examples
from aggnets_jax.data.records import check_files, leave_images_encoded
from aggnets_jax.errors import UserError, one_line


class ArrayRecords(Examples):
    """Examples of a split. The constructor checks that the files exist, and reads none."""

    def __init__(self, split: Split) -> None:
        pieces = split.pieces
        check_files([epath.Path(piece.filename) for piece in pieces])
        name = "array_record.python.array_record_data_source"
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f"data in array_record files needs the package ({one_line(error)}): pip install"
                " array_record"
            ) from error
        self._pieces = pieces
        self._ends = np.cumsum([piece.take for piece in pieces])
        self._records = module.ArrayRecordDataSource(pieces)
        self._features = split.builder.info.features
        self._image, self._label = feature_keys(split.builder)
        self._decoders = leave_images_encoded(split.builder)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, index: int) -> tuple[bytes, int]:
        """Read the record, and parse it."""
        record = self._records[index]
        example = self._features.deserialize_example_np(record, decoders=self._decoders)
        return example[self._image], int(example[self._label])

    def place(self, index: int) -> str:
        """Return the number in the file, from 0."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        piece = self._pieces[number]
        return f"image {index - self._ends[number] + piece.take + piece.skip} of {piece.filename}"


def is_array_record(split: Split) -> bool:
    """Return whether a prepared split is in array_record files."""
    form = split.builder.info.file_format
    return form is not None and form.value == "array_record"
