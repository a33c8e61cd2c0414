"""How a network's stages are computed: what to keep for the gradient, loops, shared statistics.

None of it changes what is computed, but for the rounding of sums in another order.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from aggnets_jax import named
from aggnets_jax.errors import UserError

# What keeps the outputs of convolutions, by which they are named (`models.layers.conv`).
CONVOLUTION = "convolution"

REMAT: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "layer": jax.checkpoint_policies.nothing_saveable,
    "norm": jax.checkpoint_policies.save_only_these_names(CONVOLUTION),
}


@dataclasses.dataclass(frozen=True)
class Execution:
    """How stages are computed.

    Attributes:
      remat: what is computed a second time for the gradient rather than kept. "none"; all of a
        "layer", of which only the output is kept; or what is cheap, concatenation, normalisation
        ("norm") and activation, while the outputs of convolutions are kept. The last is the memory
        efficient DenseNet (Pleiss et al., arXiv 1707.06990).
      scan: whether equal layers of a stage are compiled once, as the body of a loop, and have their
        variables in one array with an axis of layers in front.
      shared_statistics: whether mean and variance of a feature are computed once for all layers
        that normalise it, in the stages whose layers read a concatenation.

    Raises:
      UserError: for another `remat`, or values of another type.
    """

    remat: str = "none"
    scan: bool = False
    shared_statistics: bool = True

    def __post_init__(self) -> None:
        named.choose("remat", REMAT, self.remat)
        for name in ("scan", "shared_statistics"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name} must be True or False, got {getattr(self, name)!r}")


def with_loops(model: nn.Module, scan: bool) -> nn.Module:
    """The same network with loops over its layers, or with the variables of each apart."""
    return model.clone(execution=dataclasses.replace(model.execution, scan=scan))


def without_loops(model: nn.Module) -> nn.Module:
    """The same network with the variables of each layer apart."""
    return with_loops(model, False)
