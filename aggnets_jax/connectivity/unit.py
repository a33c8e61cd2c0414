"""Units: the functions F_l that the layers of a stage compute."""

import inspect
from collections.abc import Callable
from typing import Any

from flax import linen as nn

from aggnets_jax.arguments import choose

Unit = Callable[..., Callable[..., Any]]
"""`unit(layer, name=...)` makes the module of layer 1, 2, ... If all layers are alike, the unit
takes no layer: `functools.partial(Module, ...)` is called as `unit(name=...)`."""


UNITS: dict[str, Callable[..., nn.Module]] = {}
"""Units of users by name: `make(features, norm=..., conv=..., name=...)`, see `register_unit`."""


def register_unit(name: str, make: Callable[..., nn.Module]) -> None:
    """Register a unit under a name, for the argument `unit` of DenseNets, SparseNets and others.

    Args:
      name: name of the unit in configs.
      make: `make(features, norm=norm, conv=conv, name=...)`, a module class with these fields. The
        module maps [batch, height, width, channels] to [batch, height, width, features].
        `norm(name=...)` and `conv(features, kernel_size, name=...)` make the network's
        normalisations and convolutions.
    """
    UNITS[name] = make


def find_unit(unit: str | Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Return a unit by name, or the unit itself; raise `UserError` for an unknown name."""
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
    """One layer of a stage as a module of its own, so that it can be recomputed alone."""

    unit: Unit
    layer: int

    @nn.compact
    def __call__(self, *inputs: Any) -> Any:
        """Compute the output of the layer from its inputs."""
        return make_layer(self.unit, self.layer)(*inputs)
