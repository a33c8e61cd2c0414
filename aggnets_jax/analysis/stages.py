"""The stages of a network that analyses look at."""

import fnmatch
from collections.abc import Mapping
from typing import Any

from aggnets_jax.errors import unknown
from aggnets_jax.evaluate import Restored
from aggnets_jax.links import StageLinks, find_links


def stages_of(restored: Restored) -> dict[str, StageLinks]:
    """The stages of a network that have links."""
    stages = find_links(restored.model, restored.info.image_shape)
    return {name: stage for name, stage in stages.items() if stage.links}


def choose(stages: Mapping[str, Any], pattern: str) -> dict[str, Any]:
    """The stages whose names match a shell pattern.

    Raises:
      UserError: if none do.
    """
    chosen = {name: value for name, value in stages.items() if fnmatch.fnmatchcase(name, pattern)}
    if not chosen:
        raise unknown("stage", pattern, stages)
    return chosen


def inputs_of(stage: StageLinks) -> int:
    """How many of a stage's outputs are its inputs; the first layer has this number."""
    return stage.links[0][0]


def output_of(stage: StageLinks) -> int:
    """The layer that is the stage's output: N + 1, or N in a stage of shortcuts."""
    return stage.links[-1][0]


def has_shortcuts(stage: StageLinks) -> bool:
    """Whether what layers read goes past what they compute of the previous output."""
    return output_of(stage) <= stage.topology.depth
