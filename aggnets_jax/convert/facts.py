"""Facts about the data of published weights, found without a data set.

The numbers of classes and channels come from the weights. The names of the classes, the size of the
images, mean and deviation come from the first of these places that has them: the flags and the
config, the metadata of the file, known data sets, the usual values for photographs.
"""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from aggnets_jax import config as config_lib
from aggnets_jax.config_fields.known_data import KNOWN, KnownData
from aggnets_jax.convert import weight_shapes
from aggnets_jax.data import DatasetInfo, unnamed_classes
from aggnets_jax.data.dataset_info import default_normalisation
from aggnets_jax.data.image_folder import IMAGE_FOLDER
from aggnets_jax.errors import UserError, one_line
from aggnets_jax.files import explained, is_line, local_path, read_text
from aggnets_jax.models import input_shape

_IMAGENET = "imagenet2012"
_PHOTOGRAPHS = 64  # images from this side on are resized photographs


def describe_weights(
    config: ml_collections.ConfigDict,
    state_dict: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
    class_names: str | None = None,
) -> DatasetInfo:
    """Describe the data set of a network's weights, and fill in the missing fields of the config.

    Args:
      config: resolved config; its `data` may get another name, `image_size`, `mean` and `std`.
      state_dict: weights, from `read_state_dict`.
      metadata: facts, from `read_metadata`.
      class_names: file with a name in each line, or a JSON list or object of names.

    Raises:
      UserError: for class names that can't be read or are not as many as the classes, and for a
        mean or a deviation of another number of channels.
    """
    name, arguments = config.model.name, config_lib.model_arguments(config)
    shape = input_shape(name)
    sizes = weight_shapes(name, state_dict, input_shape=shape, **arguments)
    trained_on = metadata.get("image_shape") or shape
    known = _known_data(config, shape, tuple(trained_on), sizes.num_classes)
    given = metadata.get("image_shape") or (known.image_shape if known else (*shape[:2], None))
    sides = tuple(given[:2]) if config.data.image_size is None else (config.data.image_size,) * 2
    channels = len(config.data.mean) or given[-1] or sizes.channels
    mean, std = _normalisation(config, metadata, known, sides, channels)
    info = DatasetInfo(
        name=config.data.name,
        num_classes=sizes.num_classes,
        class_names=_class_names(config, sizes.num_classes, metadata, class_names),
        image_shape=(*sides, channels),
        num_train=known.examples.get(config.data.train_split, 0) if known else 0,
        num_eval=0,
        train_split=config.data.train_split,
        eval_split=config.data.eval_split or "",
        mean=mean,
        std=std,
        resident=False,
        resized=min(sides) >= _PHOTOGRAPHS,
    )
    # Later commands read the fields that the config's data set would not have by itself.
    if (mean, std) != default_normalisation(config.data.name, channels):
        config.data.update({"mean": mean, "std": std})
    if sides[0] == sides[1] and (info.resized or not known or sides != known.image_shape[:2]):
        config.data.image_size = sides[0]
    shape = "x".join(map(str, info.image_shape))
    print(
        f"images of {shape}, mean {_text(mean)} and deviation {_text(std)}; {info.num_classes}"
        f" classes: {info.class_names[0]}, ..., {info.class_names[-1]}",
        flush=True,
    )
    return info


def _known_data(
    config: ml_collections.ConfigDict,
    shape: Sequence[int],
    trained_on: tuple[int, ...],
    num_classes: int,
) -> KnownData | None:
    """Return a known data set with these classes, or None; name it in the config.

    The default set is one only for networks whose images have its size, and were trained on it.
    """
    default = config_lib.default_config().data.name
    known = KNOWN.get(config.data.name)
    alike = known and known.image_shape == tuple(shape) == trained_on
    chosen = known and (config.data.name != default or alike)
    if chosen and known.num_classes == num_classes:
        return known
    imagenet = KNOWN[_IMAGENET]
    if num_classes == imagenet.num_classes and tuple(shape) == imagenet.image_shape:
        config.data.name = _IMAGENET
        return imagenet
    if config.data.name == default:
        config.data.name = IMAGE_FOLDER
    return None


def _normalisation(
    config: ml_collections.ConfigDict,
    metadata: Mapping[str, Any],
    known: KnownData | None,
    sides: tuple[int, int],
    channels: int,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of each channel; grey images have the mean over colours."""
    photographs = _IMAGENET if min(sides) >= _PHOTOGRAPHS else ""
    default = default_normalisation(config.data.name if known else photographs, channels)
    both = []
    for i, field in enumerate(("mean", "std")):
        values = config.data[field] or metadata.get(field) or default[i]
        if len(values) not in (1, channels):
            if config.data[field] or channels != 1:
                raise UserError(
                    f"config.data.{field} needs {channels} value(s), one for each channel, not"
                    f" {len(values)}"
                )
            values = (round(sum(values) / len(values), 6),)
        both.append(tuple(map(float, values)) * (channels if len(values) == 1 else 1))
    if not min(both[1]) > 0:
        raise UserError(f"config.data.std must be greater than 0, not {both[1]}")
    return both[0], both[1]


def _class_names(
    config: ml_collections.ConfigDict,
    num_classes: int,
    metadata: Mapping[str, Any],
    file: str | None,
) -> tuple[str, ...]:
    if file is not None:
        names = read_class_names(file)
        if len(names) != num_classes:
            raise UserError(
                f"{file} has {len(names)} names, the weights have {num_classes} classes"
            )
        return names
    if len(names := metadata.get("class_names") or ()) == num_classes:
        place = "the list of classes beside the weights (--class_names gives another)"
        return _checked_names(place, names)
    if config.data.name == _IMAGENET and num_classes == KNOWN[_IMAGENET].num_classes:
        return imagenet_classes()
    return unnamed_classes(num_classes)


def read_class_names(file: str | Path) -> tuple[str, ...]:
    """Read names of classes from a file.

    It has a name in each line, or is JSON: a list of names, or an object of names by number, such
    as ImageNet's `imagenet_class_index.json`, whose values may be lists that begin with the name.

    Raises:
      UserError: if it can't be read, or holds no different names of one line each.
    """
    path = local_path(file)
    text = read_text(path)
    names: Any = [line.strip() for line in text.splitlines() if line.strip()]
    if path.suffix == ".json":
        with explained(f"{path} is no JSON file", ValueError, RecursionError):
            names = json.loads(text)
        if isinstance(names, dict):
            numbers = sorted(names, key=lambda n: int(n) if n.isdecimal() else -1)
            if numbers != [str(n) for n in range(len(names))]:
                raise UserError(f"{path} must have names by the numbers 0, 1, ...")
            names = [names[number] for number in numbers]
        names = [n[0] if isinstance(n, list) and n else n for n in _listed(names)]
    return _checked_names(path, names)


def _checked_names(place: object, names: Sequence[Any]) -> tuple[str, ...]:
    """Return names of classes; raise `UserError` unless they are different lines of text."""
    if not names or not all(isinstance(n, str) and n and is_line(n) for n in names):
        raise UserError(f"{place} holds no names of classes: {one_line(repr(names[:1]))}")
    if twice := [n for n in dict.fromkeys(names) if names.count(n) > 1]:
        raise UserError(f"{place} has the name {twice[0]!r} twice")
    return tuple(names)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def imagenet_classes() -> tuple[str, ...]:
    """Return the names of ImageNet's classes as TFDS has them: "n01440764", ..., sorted."""
    # The file alone; importing TFDS takes seconds.
    package = importlib.util.find_spec("tensorflow_datasets")
    folder = Path(package.origin).parent / "datasets" / _IMAGENET
    return read_class_names(folder / "labels.txt")


def _text(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
