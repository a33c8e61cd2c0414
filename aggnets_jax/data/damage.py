"""Images and records that can't be read: found, named and, if a config says so, skipped.

An image that is skipped keeps its place in its batch, so that the others keep theirs: it is black,
and its label is SKIPPED. So does a record that is lost with its file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from aggnets_jax.data.dataset_info import DatasetInfo
from aggnets_jax.data.decoding import eval_image, image_decoder
from aggnets_jax.data.records import read_images
from aggnets_jax.data.tf_runtime import import_tensorflow
from aggnets_jax.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_datasets as tfds

SKIPPED = -1

Record = dict[str, "tf.Tensor"]
Example = tuple["tf.Tensor", "tf.Tensor"]


def example_or_black(
    decode: Callable[[Record], Example], image_shape: tuple[int, int, int]
) -> Callable[[Record], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
    """Returns record -> (image, label, whole): black, SKIPPED and False where `decode` fails.

    It takes 0.15 ms more of a core's time for a PNG of 32x32, which decodes in 0.1 ms, and 0.8 ms
    more for a JPEG of 500x400, which decodes and is cropped and resized in 2.8 ms.
    """
    tf = import_tensorflow()

    def or_black(record: Record) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # In a graph, only a data set can go on after an error.
        record = tf.data.Dataset.from_tensors(record)
        example = record.map(lambda record: (*decode(record), True)).ignore_errors()
        skipped = (tf.zeros(image_shape, tf.uint8), tf.constant(SKIPPED, tf.int64), False)
        black = tf.data.Dataset.from_tensors(skipped)
        return example.concatenate(black).take(1).get_single_element()

    return or_black


class Source(Protocol):
    """Where the images of batches come from, to be gone through once more when some are damaged."""

    def first(self) -> str | None:
        """What is damaged, the first of it; None if nothing is.

        Raises:
          UserError: something is not damaged, and yet can't be read.
        """

    def of(self, identity: str) -> list[str]:
        """What is damaged and was not told before, from what a batch says of one of its images.

        Raises:
          UserError: it is not damaged.
        """


class Files:
    """Files of one image each, of which a batch says the name."""

    def __init__(self, files: Sequence[str], channels: int) -> None:
        """Opens nothing.

        Args:
          files: JPEG, PNG, GIF or BMP.
          channels: of the decoded images.
        """
        self._files = files
        self._channels = channels
        self._told: set[str] = set()

    def first(self) -> str | None:
        """As in `Source`."""
        return next(self._damaged(self._files), None)

    def of(self, identity: str) -> list[str]:
        """As in `Source`."""
        if identity in self._told:
            return []
        self._told.add(identity)
        found = [*self._damaged([identity])]
        if not found:
            raise UserError(f"{identity} can't always be read")
        return found

    def _damaged(self, files: Sequence[str]) -> Iterator[str]:
        tf = import_tensorflow()
        decode = image_decoder(self._channels)
        sizes = tf.data.Dataset.from_tensor_slices(files).map(
            lambda file: tf.size(decode(tf.io.read_file(file))), num_parallel_calls=tf.data.AUTOTUNE
        )
        sizes = sizes.as_numpy_iterator()
        for file in files:
            try:
                next(sizes)
            except tf.errors.InvalidArgumentError:
                yield f"{file} is damaged, or no JPEG, PNG, GIF or BMP"
            except tf.errors.OpError as error:
                raise _unreadable(file, error) from error


class Records:
    """Records of a split, of which a batch says the index, as `SplitReader.read` has it."""

    def __init__(self, builder: tfds.core.DatasetBuilder, info: DatasetInfo, split: str) -> None:
        """Opens nothing.

        Args:
          builder: of the prepared data set.
          info: from `describe`.
          split: TFDS split, slices included.
        """
        self._builder = builder
        self._info = info
        self._split = split
        self._pieces = builder.info.splits[split].file_instructions
        self._ends = np.cumsum([piece.take for piece in self._pieces])
        self._told: set[str] = set()
        self._lost: dict[str, int] = {}

    def first(self) -> str | None:
        """As in `Source`."""
        for piece in self._pieces:
            file, end = piece.filename, piece.skip + piece.take
            for place, ends in self._damaged(file, end, decode=True):
                if ends:
                    return _from_there_on(file, place)
                if place >= piece.skip:
                    return self._image(file, place)
        return None

    def of(self, identity: str) -> list[str]:
        """As in `Source`."""
        index = int(identity)
        lost = index < 0
        index = ~index if lost else index
        number = np.searchsorted(self._ends, index, side="right")
        piece = self._pieces[number]
        file, place = piece.filename, int(index - self._ends[number]) + piece.take + piece.skip
        message = self._lost_with(file, place) if lost else self._image(file, place)
        new = [] if message in self._told else [message]
        self._told.update(new)
        return new

    def _lost_with(self, file: str, place: int) -> str:
        if self._lost.get(file, place + 1) > place:
            damaged = self._damaged(file, place + 1, decode=False)
            end = next((place for place, ends in damaged if ends), None)
            if end is None:
                raise UserError(f"split {self._split!r} of {self._info.name} can't always be read")
            self._lost[file] = end
        return _from_there_on(file, self._lost[file])

    def _image(self, file: str, place: int) -> str:
        shape = "x".join(map(str, self._info.image_shape))
        wanted = "no JPEG, PNG, GIF or BMP" if self._info.resized else f"not of {shape}"
        return f"image {place} of {file} is damaged, or {wanted}"

    def _damaged(self, file: str, end: int, decode: bool) -> Iterator[tuple[int, bool]]:
        """Yields the places of damaged records before `end`, and whether the file ends there.

        Args:
          file: one of the split's.
          end: a place.
          decode: whether the images must be whole as well.
        """
        tf = import_tensorflow()
        images = read_images(self._builder, file).take(end)
        if decode:
            images = images.map(eval_image(self._info), num_parallel_calls=tf.data.AUTOTUNE)
        images = iter(images)
        for place in range(end):
            try:
                next(images)
            except tf.errors.InvalidArgumentError:
                yield place, False
            except (tf.errors.DataLossError, StopIteration):
                yield place, True
                break
            except tf.errors.OpError as error:
                raise _unreadable(file, error) from error


def _from_there_on(file: str, place: int) -> str:
    return f"{file} is damaged from record {place} on"


def _unreadable(file: str, error: tf.errors.OpError) -> UserError:
    return UserError(f"{file} can't be read ({type(error).__name__})")
