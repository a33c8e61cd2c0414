"""Maps from the classes of a data set to those of a network that was trained on another set.

The lists of the 200 classes of ImageNet-A and of ImageNet-R are in `imagenet_a.txt` and
`imagenet_r.txt`, from the authors' evaluations (https://github.com/hendrycks/natural-adv-examples
and https://github.com/hendrycks/imagenet-r, `eval.py`).
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from aggnets_jax.data.dataset_info import DatasetInfo
from aggnets_jax.data.image_folder import IMAGE_FOLDER
from aggnets_jax.data.sources.opened import unnamed_classes
from aggnets_jax.errors import UserError, one_line

# Sets of TFDS whose labels are ImageNet's 1000 classes, but whose images are of 200 of them.
_LISTED = ("imagenet_a", "imagenet_r")
# Sets whose classes have numbers as names, in the order of the original set.
_NUMBERED = ("cifar10_corrupted",)


class ClassMap(NamedTuple):
    """K classes of a network, among which it is evaluated on a data set.

    Attributes:
      classes: number of each class in the network's logits, int [K].
      labels: class, 0 to K - 1, for each label of the data set, int [labels]; -1: none of them.
    """

    classes: np.ndarray
    labels: np.ndarray


class Among(NamedTuple):
    """A network whose logits are cut to the classes of a map: [B, K]."""

    model: Any
    class_map: ClassMap

    def apply(self, variables: Any, images: jax.Array, **how: Any) -> Any:
        """Apply the network, and select the logits of the classes."""
        logits, endpoints = self.model.apply(variables, images, **how)
        return logits[..., self.class_map.classes], endpoints


def listed_classes(name: str) -> tuple[str, ...]:
    """Return the classes of ImageNet-A or -R, "imagenet_a" or "imagenet_r", in ImageNet's order."""
    return tuple((Path(__file__).parent / f"{name}.txt").read_text(encoding="utf-8").split())


def map_classes(trained: DatasetInfo, evaluated: DatasetInfo) -> ClassMap | None:
    """Return the map from a data set to a network; None if they have the same classes in order.

    On a set with some of the network's classes, the network is evaluated among these alone, as the
    authors of ImageNet-A and -R do. Folders may also be named by the numbers of the network's
    classes, as in ImageNet-V2. A printed line says so in both cases.

    Args:
      trained: data set on which the network was trained.
      evaluated: data set on which it is evaluated.

    Raises:
      UserError: if the set has classes that the network lacks, or has numbers as classes for a
        network whose classes have no names, so that their order is not known.
    """
    own, theirs = trained.class_names, evaluated.class_names
    base = re.split("[:/]", evaluated.name)[0]
    unnamed = own == unnamed_classes(len(own))
    if base in _LISTED and ((unnamed and len(own) == len(theirs)) or {*theirs} <= {*own}):
        if unnamed:
            _tell_first(theirs)
            trained = dataclasses.replace(trained, class_names=theirs)
        return _part(trained, evaluated, listed_classes(base))
    if own == theirs:
        return None
    numbers = tuple(map(str, range(len(own))))
    if unnamed and theirs == own[: len(theirs)]:  # a set without images of the last classes
        return ClassMap(np.arange(len(own)), np.arange(len(theirs)))
    if unnamed and len(own) == len(theirs):
        if all(map(str.isdecimal, theirs)) and sorted(theirs, key=int) != list(theirs):
            names = "--class_names of aggnets convert"
            if trained.num_train:
                names = "training on a set with names of its classes"
            raise UserError(
                f"the checkpoint's classes have no names, and those of {evaluated.name} are numbers"
                f" in alphabetical order ({', '.join(theirs[:4])}, ...): {names} names the outputs"
                " in their order"
            )
        _tell_first(theirs)
        return None
    if theirs == numbers and base in _NUMBERED:
        return None
    wnids = all(re.fullmatch(r"n\d{8}", name) for name in own)
    if base == IMAGE_FOLDER and wnids and sorted(numbers) == sorted(theirs):
        print(f"the folders are named by the numbers of classes: 0 is {own[0]!r}, and so on")
        return ClassMap(np.arange(len(own)), np.array([int(name) for name in theirs]))
    if {*theirs} == {*own}:
        return ClassMap(np.arange(len(own)), np.array([own.index(name) for name in theirs]))
    if {*theirs} < {*own}:
        return _part(trained, evaluated, theirs)
    raise other_classes(trained, evaluated)


def _tell_first(names: Sequence[str]) -> None:
    print(f"the checkpoint's classes have no names: the first is {names[0]!r}, and so on in order")


def _part(trained: DatasetInfo, evaluated: DatasetInfo, names: tuple[str, ...]) -> ClassMap:
    """Return the map of a set with some of the network's classes."""
    places = {name: number for number, name in enumerate(names)}
    labels = np.array([places.get(name, -1) for name in evaluated.class_names])
    classes = np.array([trained.class_names.index(name) for name in names])
    print(f"judged among {len(names)} of the network's {trained.num_classes} classes")
    return ClassMap(classes, labels)


def other_classes(trained: DatasetInfo, evaluated: DatasetInfo) -> UserError:
    """Return the error for a data set with other classes than a network's."""
    before, now = {*trained.class_names}, {*evaluated.class_names}
    if before == now:
        return UserError(f"data set {evaluated.name} has the checkpoint's classes in another order")
    new, missing = ", ".join(sorted(now - before)), ", ".join(sorted(before - now))
    return UserError(
        one_line(
            f"data set {evaluated.name} has other classes than the checkpoint's:"
            f" new are {new or 'none'}; missing are {missing or 'none'}"
        )
    )
