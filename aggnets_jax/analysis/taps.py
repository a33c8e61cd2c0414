"""The stages of a network, and the places in them where an analysis can read or change values.

    reading    y_l = F_l(computed_l(aggregate of sources))
    shortcuts  y_l = F_l(computed_l(y_{l-1})) joined with shortcut_l(aggregate of sources)

and `written` of each y, including the stage's inputs, and of the stage's output N + 1 where it is
an aggregate of its own. The network and its parameters do not change.
"""

import contextlib
import fnmatch
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import linen as nn

from aggnets_jax.connectivity.links import StageLinks, find_links
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.unit import make_layer
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.workdir.restore import Restored


def stages_of(restored: Restored) -> dict[str, StageLinks]:
    """Return the stages of a network that have links; raise `UserError` if none has."""
    stages = find_links(restored.model, restored.info.image_shape)
    found = {name: stage for name, stage in stages.items() if stage.links}
    if not found:
        raise UserError(f"{restored.config.model.name!r} has no stage with links")
    return found


def choose(stages: Mapping[str, Any], pattern: str) -> dict[str, Any]:
    """Return the stages by a shell pattern of their names; raise `UserError` if none matches."""
    chosen = {name: value for name, value in stages.items() if fnmatch.fnmatchcase(name, pattern)}
    if not chosen:
        raise unknown("stage", pattern, stages)
    return chosen


def inputs_of(stage: StageLinks) -> int:
    """Return the number of a stage's inputs, which is the number of its first layer."""
    return stage.links[0][0]


def output_of(stage: StageLinks) -> int:
    """Return the layer that is the stage's output: N + 1, or N in a stage of shortcuts."""
    return stage.links[-1][0]


def has_shortcuts(stage: StageLinks) -> bool:
    """Return whether links go past the layers, each of which computes on the previous output."""
    return output_of(stage) <= stage.topology.depth


def empty_matrix(stage: StageLinks) -> np.ndarray:
    """Return a matrix without numbers."""
    return np.full([stage.topology.depth + 2, stage.topology.depth + 1], np.nan)


Tap = Callable[[str, int, Any], Any]
"""`(stage, layer, value) -> value`, of the same structure, shapes and dtypes."""


class _Tapped(Stage):
    """A stage that has its taps."""


def _same(_stage: str, _layer: int, value: Any) -> Any:
    return value


def tapped(
    *, computed: Tap = _same, shortcut: Tap = _same, written: Tap = _same
) -> contextlib.AbstractContextManager:
    """Make a context in which values within the stages of networks pass through functions.

    See the top of this file; `written` gets a stage's inputs by the number of their sources.
    """

    def intercept(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
        module = context.module
        is_stage = isinstance(module, Stage) and not isinstance(module, _Tapped)
        if not is_stage or context.method_name != "__call__":
            return call(*arguments, **keywords)
        name, first = "/".join(module.path), len(arguments)

        def unit(number: int) -> Callable[..., Any]:
            layer = number + first - 1
            compute = make_layer(module.unit, number)

            def tapped_unit(read: Any, *aggregate: Any) -> Any:
                read = computed(name, layer, read)
                aggregate = (shortcut(name, layer, each) for each in aggregate)
                return written(name, layer, compute(read, *aggregate))

            return tapped_unit

        stage = _Tapped(
            module.topology,
            unit=lambda number, name: unit(number),
            aggregation=module.aggregation,
            projection=module.projection,
            shortcuts=module.shortcuts,
            preactivated=module.preactivated,
            parent=module.scope,
        )
        inputs = (written(name, source, each) for source, each in enumerate(arguments))
        output = stage(*inputs)
        return output if module.shortcuts else written(name, module.topology.depth + 1, output)

    return nn.intercept_methods(intercept)
