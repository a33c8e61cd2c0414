"""The content of a data set from elsewhere, as each reader returns it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from aggnets_jax.data.examples import Examples
from aggnets_jax.errors import UserError


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


def numbered_classes(labels: Iterable[np.ndarray]) -> tuple[str, ...]:
    """Return names for classes that have none: "class 0" to the largest of the labels, int [n].

    Raises:
      UserError: if the largest label is too large for the number of a class.
    """
    largest = max((int(each.max()) for each in labels if len(each)), default=-1)
    if largest >= 1_000_000:
        raise UserError(f"labels must be numbers of classes, from 0 on; the largest is {largest}")
    return tuple(f"class {number}" for number in range(largest + 1))
