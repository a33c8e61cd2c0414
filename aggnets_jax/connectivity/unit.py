"""Units: the functions F_l that the layers of a stage compute."""

import inspect
from collections.abc import Callable
from typing import Any

from flax import linen as nn

Unit = Callable[..., Callable[..., Any]]
"""`unit(layer, name=...)` makes the module of layer 1, 2, ... A unit that makes all layers alike
needs no such argument: `functools.partial(Module, ...)` is called as `unit(name=...)`."""


def make_layer(unit: Unit, layer: int) -> Callable[..., Any]:
    """Return the module `layer{layer}` of the current stage, made by `unit`."""
    name = f"layer{layer}"
    try:
        inspect.signature(unit).bind(name=name)
    except TypeError:  # something else must be given: the number of the layer
        return unit(layer, name=name)
    return unit(name=name)


class Layer(nn.Module):
    """One layer of a stage, made by the stage's unit, to be computed apart from the rest."""

    unit: Unit
    layer: int

    @nn.compact
    def __call__(self, *inputs: Any) -> Any:
        """Compute the output of the layer from its inputs."""
        return make_layer(self.unit, self.layer)(*inputs)
