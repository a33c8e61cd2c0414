"""How a network's stages are computed: what to keep for the gradient, loops, shared statistics.

None of it changes what is computed, but for the rounding of sums in another order.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from aggnets_jax.arguments import choose
from aggnets_jax.errors import UserError

# What keeps the outputs of convolutions, by which they are named (`models.layers.conv`).
CONVOLUTION = "convolution"

REMAT: dict[str, Callable[..., Any] | None] = {
    "auto": None,  # see `Execution.resolved_remat`
    "none": None,
    "layer": jax.checkpoint_policies.nothing_saveable,
    "norm": jax.checkpoint_policies.save_only_these_names(CONVOLUTION),
}


@dataclasses.dataclass(frozen=True)
class Execution:
    """How stages are computed.

    Attributes:
      remat: what to recompute for the gradient rather than keep. "none"; "layer", all of a layer
        but its output; "norm", what is cheap (concatenation, normalisation and activation), as in
        the memory-efficient DenseNet (Pleiss et al., arXiv 1707.06990). "auto" is "norm" on a CPU
        for preactivated layers that read a concatenation: to recompute it takes less time there
        than to write and read it (results/speed.csv). Otherwise it is "none".
      scan: whether equal layers of a stage are compiled once, as the body of a loop, and have their
        variables in one array with an axis of layers in front.
      shared_statistics: whether mean and variance of a feature are computed once for all layers
        that normalise it, in the stages whose layers read a concatenation.

    Raises:
      UserError: for another `remat`, or values of another type.
    """

    remat: str = "auto"
    scan: bool = False
    shared_statistics: bool = True

    def __post_init__(self) -> None:
        choose("remat", REMAT, self.remat)
        for name in ("scan", "shared_statistics"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name} must be True or False, got {getattr(self, name)!r}")

    def resolved_remat(self, normalises_concatenation: bool) -> str:
        """Return `remat`, with "auto" resolved for layers that normalise a concatenation or not."""
        if self.remat != "auto":
            return self.remat
        return "norm" if normalises_concatenation and jax.default_backend() == "cpu" else "none"


def with_loops(model: nn.Module, scan: bool) -> nn.Module:
    """The same network with loops over its layers, or with the variables of each apart."""
    return model.clone(execution=dataclasses.replace(model.execution, scan=scan))


def without_loops(model: nn.Module) -> nn.Module:
    """The same network with the variables of each layer apart."""
    return with_loops(model, False)
