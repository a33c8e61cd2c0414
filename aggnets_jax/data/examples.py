"""Examples that can be read in any order: a number gives an encoded image and its label.

Sets of other forms than TFRecords come through this interface. The order of an epoch is then a
permutation of all numbers, so a run resumes without reading what it has seen, and a process reads
only the examples of its rows.
"""

from __future__ import annotations

import abc
import bisect
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from aggnets_jax.data.tf_runtime import import_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf


class Examples(abc.ABC):
    """Numbered examples, each an encoded image with a label.

    Attributes:
      labels: int64 [N], or None if they are known only with the images.
    """

    labels: np.ndarray | None = None

    @abc.abstractmethod
    def __len__(self) -> int:
        """Return the number of examples, N."""

    @abc.abstractmethod
    def read(self, index: int) -> tuple[bytes, int]:
        """Return the encoded image and the label of an example; raise any error if it is damaged.

        It may be called from several threads.
        """

    @abc.abstractmethod
    def place(self, index: int) -> str:
        """Return where an example is stored, for messages: "row 3 of FILE"."""


class Piece(NamedTuple):
    """A range of examples: those from number `start` on, up to `end`."""

    examples: Examples
    start: int
    end: int


class Joined(Examples):
    """Pieces of other examples, one after the other."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces
        self._ends = list(itertools.accumulate(piece.end - piece.start for piece in pieces))
        if all(piece.examples.labels is not None for piece in pieces):
            parts = [piece.examples.labels[piece.start : piece.end] for piece in pieces]
            self.labels = np.concatenate([np.empty(0, np.int64), *parts])

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, index: int) -> tuple[bytes, int]:
        """Read the example from its piece."""
        piece, number = self._find(index)
        return piece.examples.read(number)

    def place(self, index: int) -> str:
        """Return the place in its piece."""
        piece, number = self._find(index)
        return piece.examples.place(number)

    def _find(self, index: int) -> tuple[Piece, int]:
        number = bisect.bisect_right(self._ends, index)
        piece = self._pieces[number]
        return piece, piece.end - (self._ends[number] - index)


def reader_of(
    examples: Examples,
) -> Callable[[dict[str, tf.Tensor]], tuple[tf.Tensor, tf.Tensor]]:
    """Return a function from a record with its "index" to the encoded image and the label.

    For data pipelines; both are scalars. A damaged record is an `InvalidArgumentError`, a file that
    can't be read an `UnknownError`.
    """
    tf = import_tensorflow()

    def read(index: np.int64) -> tuple[bytes, np.int64]:
        try:
            image, label = examples.read(int(index))
        except OSError:  # not the image's fault: TensorFlow reports it as an unknown error
            raise
        except Exception as error:  # TensorFlow reports a ValueError as a wrong argument
            raise ValueError(f"{examples.place(int(index))}: {error}") from error
        return image, np.int64(label)

    def parse(record: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        image, label = tf.numpy_function(read, [record["index"]], (tf.string, tf.int64))
        return tf.ensure_shape(image, ()), tf.ensure_shape(label, ())

    return parse
