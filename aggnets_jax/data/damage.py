"""Images and records that can't be read: found, named and, if the config says so, skipped.

A skipped image is black and has the label SKIPPED. It keeps its place in its batch, so the other
images keep theirs. The same holds for records that are lost after a damaged place in their file.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from aggnets_jax.data.dataset_info import DatasetInfo, Split
from aggnets_jax.data.decoding import FORMATS, eval_image, image_decoder
from aggnets_jax.data.examples import Examples, reader_of
from aggnets_jax.data.record_order import encoded
from aggnets_jax.data.records import parse, read_file
from aggnets_jax.data.tf_runtime import import_tensorflow
from aggnets_jax.errors import UserError, one_line
from aggnets_jax.files import explained

if TYPE_CHECKING:
    import tensorflow as tf

SKIPPED = -1

# A record before and an example after decoding: names and tensors.
Record = dict[str, "tf.Tensor"]


def decode_or_blank(
    decode: Callable[[Record], Record], blank: Record
) -> Callable[[Record], tuple[Record, tf.Tensor]]:
    """Return record -> (`decode(record)`, True), or (`blank`, False) where decoding fails.

    It takes 0.15 ms more of a core's time for a PNG of 32x32, which decodes in 0.1 ms, and 0.8 ms
    more for a JPEG of 500x400, which decodes and is cropped and resized in 2.8 ms.
    """
    tf = import_tensorflow()

    def example(record: Record) -> tuple[Record, tf.Tensor]:
        # In a graph, only a data set can continue after an error.
        alone = tf.data.Dataset.from_tensors(record)
        decoded = alone.map(lambda record: (decode(record), True)).ignore_errors()
        otherwise = tf.data.Dataset.from_tensors((blank, False))
        return decoded.concatenate(otherwise).take(1).get_single_element()

    return example


@contextlib.contextmanager
def naming(damage: FileDamage | RecordDamage | ExampleDamage, split: Split) -> Iterator[None]:
    """Raise `UserError` with the first damage of a split for errors of its pipeline.

    Without damage it may be the storage: then `OSError`.
    """
    errors = import_tensorflow().errors  # now: a generator may end when Python does
    try:
        yield
    except errors.OpError as error:
        # TensorFlow does not name the place; the search goes through everything once more.
        if found := damage.first():
            raise UserError(found) from error
        always = f"split {split.name!r} can't always be read ({type(error).__name__})"
        raise _kind_of(error)(always) from error


def _kind_of(error: Exception) -> type[Exception]:
    """Return `OSError` for an error of storage that may be well again, else `UserError`."""
    errors = import_tensorflow().errors
    passing = (
        *(errors.AbortedError, errors.DeadlineExceededError, errors.ResourceExhaustedError),
        *(errors.UnavailableError, errors.UnknownError),
    )
    return OSError if isinstance(error, passing) else UserError


class FileDamage:
    """Search for damage in files of one image each, which are read once more."""

    def __init__(self, files: Sequence[str], channels: int) -> None:
        self._files = files
        self._channels = channels

    def first(self) -> str | None:
        """Return a message about the first damaged file, or None; raise UserError if it is gone."""
        return next(self._messages(self._files), None)

    def message(self, identity: str) -> str:
        """Return the message about a damaged file, by name; raise UserError if it is undamaged."""
        for message in self._messages([identity]):
            return message
        raise UserError(f"{identity} can't always be read")

    def _messages(self, files: Sequence[str]) -> Iterator[str]:
        tf = import_tensorflow()
        decode = image_decoder(self._channels)
        sizes = tf.data.Dataset.from_tensor_slices(encoded(files)).map(
            lambda file: tf.size(decode(tf.io.read_file(file))), num_parallel_calls=tf.data.AUTOTUNE
        )
        for place, _ in _damaged(sizes, files):
            yield f"{files[place]} is damaged, or no {FORMATS}"


class ExampleDamage:
    """Search for damage in numbered examples, which are read once more."""

    def __init__(self, examples: Examples, info: DatasetInfo) -> None:
        self._examples = examples
        self._info = info

    def first(self) -> str | None:
        """Return a message about the first damaged example, or None."""
        tf = import_tensorflow()
        parse, image = reader_of(self._examples), eval_image(self._info)
        numbers = tf.data.Dataset.range(len(self._examples))
        images = numbers.map(
            lambda index: image(parse({"index": index})[0]), num_parallel_calls=tf.data.AUTOTUNE
        )
        places = map(self._examples.place, range(len(self._examples)))
        first = next(_damaged(images, places), None)
        return None if first is None else self.message(str(first[0]))

    def message(self, identity: str) -> str:
        """Return the message about a damaged example, by its number.

        Raise `UserError`, or `OSError` if that may pass, if its file can't be read.
        """
        place = self._examples.place(int(identity))
        with explained(f"{place} can't be read"):
            try:
                self._examples.read(int(identity))
            except OSError:
                raise
            except Exception as error:  # of the libraries that read records
                return f"{place} is damaged: {one_line(error)}"
        shape = "x".join(map(str, self._info.image_shape))
        wanted = f"no {FORMATS}" if self._info.resized else f"not of {shape}"
        return f"{place} is damaged, or {wanted}"


class RecordDamage:
    """Search for damage in the records of a split, which are read once more.

    Places in messages count the records of a file from 0.
    """

    def __init__(self, split: Split) -> None:
        self._split = split
        self._ends = np.cumsum([piece.take for piece in split.pieces])
        self._lost_from: dict[str, int] = {}

    def first(self) -> str | None:
        """Return a message about the first damage, or None; raise UserError if a file is gone."""
        for piece in self._split.pieces:
            file, end = piece.filename, piece.skip + piece.take
            for place, ends in self._damaged(file, end, decode=True):
                if ends:
                    return _lost_message(file, place)
                if place >= piece.skip:
                    return self._image_message(file, place)
        return None

    def message(self, identity: str) -> str:
        """Return the message about a record, by its "index" of `SplitReader.read`.

        Raise `UserError` if it is lost with its file, but the file is undamaged.
        """
        lost = int(identity) < 0
        index = ~int(identity) if lost else int(identity)
        number = np.searchsorted(self._ends, index, side="right")
        piece = self._split.pieces[number]
        file, place = piece.filename, int(index - self._ends[number]) + piece.take + piece.skip
        if not lost:
            return self._image_message(file, place)
        if self._lost_from.get(file, place + 1) > place:
            damaged = self._damaged(file, place + 1, decode=False)
            end = next((place for place, ends in damaged if ends), None)
            if end is None:
                name, info = self._split.name, self._split.info
                raise UserError(f"split {name!r} of {info.name} can't always be read")
            self._lost_from[file] = end
        return _lost_message(file, self._lost_from[file])

    def _image_message(self, file: str, place: int) -> str:
        info = self._split.info
        shape = "x".join(map(str, info.image_shape))
        wanted = f"no {FORMATS}" if info.resized else f"not of {shape}"
        return f"image {place} of {file} is damaged, or {wanted}"

    def _damaged(self, file: str, end: int, decode: bool) -> Iterator[tuple[int, bool]]:
        """Yield as `_damaged` for the first `end` records of a file, with or without decoding."""
        tf = import_tensorflow()
        builder = self._split.builder
        images = read_file(builder, file).take(end).map(lambda record: parse(builder, record)[0])
        if decode:
            images = images.map(eval_image(self._split.info), num_parallel_calls=tf.data.AUTOTUNE)
        return _damaged(images, itertools.repeat(file, end))


def _damaged(images: tf.data.Dataset, files: Iterable[str]) -> Iterator[tuple[int, bool]]:
    """Yield the places of damaged images, and whether no image after it can be read."""
    tf = import_tensorflow()
    images = iter(images)
    for place, file in enumerate(files):
        try:
            next(images)
        except tf.errors.InvalidArgumentError:
            yield place, False
        except (tf.errors.DataLossError, StopIteration):
            yield place, True
            return
        except tf.errors.OpError as error:
            raise _kind_of(error)(f"{file} can't be read ({type(error).__name__})") from error


def _lost_message(file: str, place: int) -> str:
    return f"{file} is damaged from record {place} on"
