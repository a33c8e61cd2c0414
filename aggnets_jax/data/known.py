"""Data sets whose sizes and classes are known before they are prepared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import ml_collections

from aggnets_jax.errors import unknown


class KnownData(NamedTuple):
    """What the cost of a training depends on, known without the data being there."""

    image_shape: tuple[int, int, int]
    num_classes: int
    examples: Mapping[str, int]


_DATA = {
    "cifar10": KnownData((32, 32, 3), 10, {"train": 50_000}),
    "cifar100": KnownData((32, 32, 3), 100, {"train": 50_000}),
    "imagenet2012": KnownData((224, 224, 3), 1000, {"train": 1_281_167}),
    "aggnets_digits": KnownData((8, 8, 1), 10, {"train": 1_437, "train_10_per_class": 100}),
}


def num_train(config: ml_collections.ConfigDict) -> int:
    """Examples in the training split of a config's data set.

    Raises:
      UserError: for a set or a split of which this is not known without the data.
    """
    examples, split = known_data(config).examples, config.data.train_split
    if split not in examples:
        raise unknown(f"size of the split of {config.data.name}", split, examples)
    return examples[split]


def known_data(config: ml_collections.ConfigDict) -> KnownData:
    """What is known of a config's data set, with images as large as the network gets them.

    Raises:
      UserError: for a set of which nothing is known without the data.
    """
    if config.data.name not in _DATA:
        raise unknown("size of data set", config.data.name, _DATA)
    data, size = _DATA[config.data.name], config.data.image_size
    shape = data.image_shape if size is None else (size, size, data.image_shape[-1])
    return data._replace(image_shape=shape)
