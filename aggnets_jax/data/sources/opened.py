"""The content of a data set from elsewhere, as each reader returns it."""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from aggnets_jax.data.examples import Examples
from aggnets_jax.errors import UserError
from aggnets_jax.files import is_line
from aggnets_jax.runtime.notes import print_once


class Opened(NamedTuple):
    """An open data set.

    Attributes:
      splits: examples of each split, by its name.
      class_names: name of each class, in the order of the labels.
      shape: (height, width, channels) of all images; None if only the images tell it.
    """

    splits: Mapping[str, Examples]
    class_names: Sequence[str]
    shape: tuple[int, int, int] | None = None


def unnamed_classes(num_classes: int) -> tuple[str, ...]:
    """Return the names of classes that have none: "class 0", "class 1", ..."""
    return tuple(f"class {number}" for number in range(num_classes))


def numbered_classes(labels: Iterable[np.ndarray], place: str) -> tuple[str, ...]:
    """Return names for classes without any, as many as the labels need.

    A line on stderr counts the classes without any image: the labels may begin at 1, or have gaps.

    Raises:
      UserError: if the largest label is too large for the number of a class.
    """
    used = {int(label) for each in labels for label in np.unique(each)} - {-1}
    largest = max(used, default=-1)
    if largest >= 1_000_000:
        raise UserError(f"labels must be numbers of classes, from 0 on; the largest is {largest}")
    if unused := [number for number in range(largest + 1) if number not in used]:
        print_once(
            f"{len(unused)} of the {largest + 1} classes of {place} have no images, such as"
            f" {unused[0]}: classes are numbered from 0 to the largest label"
        )
    return unnamed_classes(largest + 1)


def check_names(names: Sequence[str], place: str) -> None:
    """Raise `UserError` if a name of a class comes twice, or can't be printed as a line."""
    for name, count in collections.Counter(names).items():
        if count > 1:
            raise UserError(f"{place} has the class {name!r} {count} times; names must differ")
        if not is_line(name):
            raise UserError(f"{place} has the class {name!a}; names must be lines of text")
