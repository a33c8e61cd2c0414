"""Data sets whose sizes and classes are known before they are prepared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import ml_collections

from aggnets_jax.errors import unknown


class KnownData(NamedTuple):
    """Facts that the cost of a training depends on: input shape, classes, examples per split."""

    image_shape: tuple[int, int, int]
    num_classes: int
    examples: Mapping[str, int]


KNOWN = {
    "cifar10": KnownData((32, 32, 3), 10, {"train": 50_000}),
    "cifar100": KnownData((32, 32, 3), 100, {"train": 50_000}),
    "imagenet2012": KnownData((224, 224, 3), 1000, {"train": 1_281_167}),
    # COCO: images of 2017 with objects that can be trained on, and all images of 2014.
    "coco_folder": KnownData((800, 1344, 3), 80, {"train2017": 117_266, "train2014": 82_783}),
    "aggnets_digit_scenes": KnownData((64, 64, 3), 10, {"train": 598}),
    "aggnets_digits": KnownData((8, 8, 1), 10, {"train": 1_437, "train_10_per_class": 100}),
    "aggnets_mnist5k": KnownData((28, 28, 1), 10, {"train": 4_000, "train_10_per_class": 100}),
}


def known_data(config: ml_collections.ConfigDict) -> KnownData:
    """Return a config's KNOWN data, with its `image_size` if set, or raise `UserError`."""
    if config.data.name not in KNOWN:
        raise unknown("size of data set", config.data.name, KNOWN)
    data, size = KNOWN[config.data.name], config.data.image_size
    if size is None:
        return data
    return data._replace(image_shape=(size, size, data.image_shape[-1]))


def num_train(config: ml_collections.ConfigDict) -> int:
    """Return the number of examples in a config's training split; raise `UserError` if unknown."""
    examples, split = known_data(config).examples, config.data.train_split
    if split not in examples:
        raise unknown(f"size of the split of {config.data.name}", split, examples)
    return examples[split]
