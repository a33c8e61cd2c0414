"""Settings of how stages are computed: recomputation, loops over layers, shared statistics.

None of them changes the result, except for the rounding of sums in another order.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from aggnets_jax.arguments import choose
from aggnets_jax.errors import UserError
from aggnets_jax.runtime.compilation import backend

CONVOLUTION = "convolution"
"""Name of the outputs of convolutions (`layers.common.conv`), which "norm" keeps."""

REMAT: dict[str, Callable[..., Any] | None] = {
    "auto": None,  # "norm" or "none", see `Execution.remat_policy`
    "none": None,
    "layer": jax.checkpoint_policies.nothing_saveable,
    "norm": jax.checkpoint_policies.save_only_these_names(CONVOLUTION),
}
"""Policies of `jax.checkpoint` by name; None if nothing is recomputed."""


@dataclasses.dataclass(frozen=True)
class Execution:
    """How stages are computed.

    Attributes:
      remat: values to recompute for the gradient instead of keeping them.
        "none"   nothing.
        "layer"  everything in a layer; only the outputs of layers are kept.
        "norm"   concatenation, normalisation and activation; the outputs of convolutions are kept,
                 too. This is the memory-efficient DenseNet (Pleiss et al., arXiv 1707.06990).
        "auto"   "norm" on a CPU, in training, for preactivated layers that read a concatenation:
                 there it takes less time to recompute the normalised concatenation than to write
                 and read it (results/speed.csv). "none" otherwise.
      scan: whether equal layers of a stage are compiled once, as the body of a loop. Their
        variables are then arrays with an axis of layers in front.
      shared_statistics: whether the mean and variance of a feature are computed once for all layers
        that normalise it, in stages whose layers read a concatenation.

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

    def remat_policy(self, normalises_concatenation: bool) -> Callable[..., Any] | None:
        """Return the policy of `jax.checkpoint` for a layer, or None if nothing is recomputed.

        With "auto" it depends on whether the layer, in training, first normalises a concatenation.
        """
        automatic = self.remat == "auto" and normalises_concatenation
        return REMAT["norm" if automatic and backend() == "cpu" else self.remat]


def with_loops(model: nn.Module, scan: bool) -> nn.Module:
    """Return the network with (`scan`) or without loops over its layers, if it can have any."""
    if not hasattr(model, "execution"):
        return model
    return model.clone(execution=dataclasses.replace(model.execution, scan=scan))


def without_loops(model: nn.Module) -> nn.Module:
    """Return the network without loops, which has separate variables for each layer."""
    return with_loops(model, False)
