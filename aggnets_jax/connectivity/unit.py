"""Units: the functions F_l that the layers of a stage compute."""

import inspect
from collections.abc import Callable
from typing import Any

from flax import linen as nn

from aggnets_jax.arguments import choose

Unit = Callable[..., Callable[..., Any]]
"""`unit(layer, name=...)` makes the module of layer 1, 2, ... A unit that makes all layers alike
needs no such argument: `functools.partial(Module, ...)` is called as `unit(name=...)`."""


UNITS: dict[str, Callable[..., nn.Module]] = {}
"""Units of users by name: `make(features, norm=..., conv=..., name=...)`, see `register_unit`."""


def register_unit(name: str, make: Callable[..., nn.Module]) -> None:
    """Register a unit under a name, for the argument `unit` of DenseNets and SparseNets.

    `make(features, norm=norm, conv=conv, name=...)`, a module class with these fields, makes the
    module of a layer: [batch, height, width, channels] -> [batch, height, width, features].
    `norm(name=...)` and `conv(features, kernel_size, name=...)` make the network's normalisations
    and convolutions.
    """
    UNITS[name] = make


def find_unit(unit: str | Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Return a unit by name, or as it is; raise `UserError` for an unknown name."""
    return unit if callable(unit) else choose("unit", UNITS, unit)


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
