"""The detector of digit_scenes.py with three connection patterns, at equal parameters.

    aggnets train --config=configs/detection/digit_scenes_patterns.py:dense --workdir=runs/dense

results/README.md has the commands for five seeds of each.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from aggnets_jax.config_fields import files

SCENES = files.read(files.configs_folder() / "detection" / "digit_scenes.py")

# Growth rates with which the detectors have 616,620 to 625,836 parameters.
GROWTH_RATES = {"sparse": 24, "dense": 21, "plain": 26}


def get_config() -> ml_collections.ConfigDict:
    return SCENES.get_config()


def sweep() -> Iterator[tuple[str, dict[str, Any]]]:
    for topology, growth_rate in GROWTH_RATES.items():
        yield topology, {"model.topology": topology, "model.args.growth_rate": growth_rate}
