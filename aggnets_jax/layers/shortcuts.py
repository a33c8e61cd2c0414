"""Shortcuts of residual networks: who adds what to the output of a block.

Paper: Zhang et al., "ResNet or DenseNet? Introducing Dense Shortcuts to ResNet", WACV 2021, arXiv
2010.12496.

    y_l = act(F_l(y_{l-1}) + shortcut_l)

    ResNet                shortcut_l = y_{l-1}                      plain, "sum"
    ResNet50-dense, eq.13 shortcut_l = sum_i y_i                    dense, "sum"
    DSNet, eq. 12         shortcut_l = sum_i W[l, i] N(y_i)         dense, "normalised_sum"
    variant (a), eq. 11   shortcut_l = sum_i W[l, i] N(F_i)         the same, sources "blocks"

        y_0 --F_1--(+)-- y_1 --F_2--(+)-- y_2 --F_3--(+)-- y_3
         |          |     |          |     |          |
         N----------+-----|----------+-----|----------+
                          N----------+-----|----------+
                                           N----------+

N is computed once for each output and shared by all that read it.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from aggnets_jax.arguments import choose
from aggnets_jax.connectivity.aggregation import (
    Affine,
    Aggregation,
    NormalisedSum,
    Outputs,
    affine_sum,
    check_aggregation,
    make_aggregation,
)
from aggnets_jax.connectivity.execution import Execution
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import Topology
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.layers.batch_norm import AffineBatchNorm

Norm = Callable[..., Callable[[jax.Array], Affine]]
"""`norm(name=...)` makes a normalisation, a function to the map that it is."""


def _groups(channels: int) -> int:
    """At most 32 groups of at least 4 channels; fewer where so many do not divide them."""
    most = min(32, max(1, channels // 4))
    return next(n for n in range(most, 0, -1) if channels % n == 0)


class GroupNorm(nn.Module):
    """Group normalisation without scale and shift, of images whose statistics are float32 or wider.

    Attributes:
      groups: their number for a number of channels.
    """

    groups: Callable[[int], int]

    @nn.compact
    def __call__(self, x: jax.Array) -> Affine:
        """[batch, height, width, channels] -> factor and shift [batch, 1, 1, channels]."""
        channels = x.shape[-1]
        groups = self.groups(channels)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        x = x.reshape(x.shape[0], -1, groups, channels // groups)
        mean, square = jnp.mean(x, (1, 3)), jnp.mean(x * x, (1, 3))
        # As `nn.GroupNorm`, which computes the variance from the mean square, too.
        factor = jax.lax.rsqrt(jnp.maximum(square - mean * mean, 0) + 1e-5)
        both = Affine(factor, -mean * factor)
        return jax.tree.map(lambda v: jnp.repeat(v, channels // groups, 1)[:, None, None], both)


def _group_norm(groups: Callable[[int], int], *, train: bool) -> Norm:
    del train
    return partial(GroupNorm, groups)


def _batch_norm(*, train: bool) -> Norm:
    return partial(AffineBatchNorm, use_running_average=not train, dtype=jnp.float32)


def _no_norm(*, train: bool) -> Norm:
    del train
    return lambda name: lambda x: Affine(jnp.ones((), x.dtype), jnp.zeros((), x.dtype))


# The rows of Table 1; none of them has a scale and a shift, which W would make redundant.
NORMS: dict[str, Callable[..., Norm]] = {
    "group": partial(_group_norm, _groups),
    "layer": partial(_group_norm, lambda channels: 1),
    "instance": partial(_group_norm, lambda channels: channels),
    "batch": _batch_norm,
    "none": _no_norm,
}

AGGREGATIONS = ("sum", "mean", "normalised_sum")
SOURCES = ("outputs", "blocks")


class Joined(NamedTuple):
    """What a layer leaves behind where shortcuts start at the blocks (variant a)."""

    output: jax.Array
    block: jax.Array


@dataclasses.dataclass(frozen=True)
class Shortcuts:
    """What is added to the output of a block.

    Attributes:
      aggregation: "sum", "mean", or "normalised_sum".
      norm: N of the last, one of `NORMS`.
      weighted: whether its W is learnt rather than 1.
      sources: "outputs", from which shortcuts start, or "blocks" for what F computed (variant a).
      inner: whether there are shortcuts w N(z) within the blocks, too (DS2Net).

    Raises:
      UserError: for an unknown name, an aggregation that would widen what is added, and a norm or
        weights where none are used.
    """

    aggregation: str = "sum"
    norm: str = "group"
    weighted: bool = True
    sources: str = "outputs"
    inner: bool = False

    def __post_init__(self) -> None:
        check_aggregation(
            self.aggregation,
            AGGREGATIONS,
            "it would widen the shortcut, which is added to what a block computes",
        )
        choose("shortcut_norm", NORMS, self.norm)
        if self.sources not in SOURCES:
            raise unknown("shortcut_sources", str(self.sources), SOURCES)
        normalised = self.aggregation == "normalised_sum" or self.inner
        if not normalised and (self.norm, self.weighted) != ("group", True):
            raise UserError(
                "shortcut_norm and shortcut_weights are of the aggregation 'normalised_sum', got"
                f" {self.aggregation!r}"
            )

    def make_norm(self, *, train: bool) -> Norm:
        """What makes N."""
        return NORMS[self.norm](train=train)

    def make_aggregation(self, *, train: bool) -> Aggregation:
        """A fresh aggregation of outputs, or of pairs `Joined`."""
        aggregate = (
            NormalisedSum(self.make_norm(train=train), weighted=self.weighted)
            if self.aggregation == "normalised_sum"
            else make_aggregation(self.aggregation)
        )
        if self.sources == "outputs":
            return aggregate

        def aggregate_blocks(
            outputs: Outputs, sources: Any, layer: int, *weights: jax.Array
        ) -> jax.Array:
            blocks = {source: outputs[source].block for source in sources}
            return aggregate(blocks, sources, layer, *weights)

        return aggregate_blocks

    def stage(
        self,
        x: jax.Array,
        topology: Topology,
        block: Callable[..., Callable[[jax.Array], jax.Array]],
        *,
        activation: Callable[[jax.Array], jax.Array],
        train: bool,
        execution: Execution,
        kind: Callable[[int], Any],
        name: str,
    ) -> jax.Array:
        """Runs blocks that keep the shape of x.

        Args:
          x: y_0 [batch, height, width, channels], the output of the block that opened the stage.
          topology: who adds whose output.
          block: `block(layer, name=...)` makes F of layer 1, 2, ...
          activation: of the sum.
          train: whether N normalises by the batch, if it is batch normalisation.
          execution: of the stage.
          kind: of a block, see `Stage`.
          name: of the stage.

        Returns:
          The output of the last block, of the shape of x.
        """
        pairs = self.sources == "blocks"

        def unit(layer: int, name: str) -> Callable[[Any, jax.Array], Any]:
            compute = block(layer, name=name)

            def join(previous: Any, shortcut: jax.Array) -> Any:
                residual = compute(previous.output if pairs else previous)
                output = activation(residual + shortcut)
                return Joined(output, residual) if pairs else output

            return join

        output = Stage(
            topology,
            unit,
            aggregation=self.aggregation
            if self.aggregation == "sum" and not pairs
            else partial(self.make_aggregation, train=train),
            shortcuts=True,
            execution=execution,
            kind=kind,
            name=name,
        )(Joined(x, x) if pairs else x)
        return output.output if pairs else output


class NormalisedShortcut(nn.Module):
    """w * N(x), by channel: the shortcut within a block (DS2Net, Section 3.3).

    Attributes:
      norm: makes N.
      weighted: whether w is learnt, 1 at first, rather than 1.
    """

    norm: Norm
    weighted: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same shape."""
        factor, shift = self.norm(name="norm")(x)
        if self.weighted:
            weights = self.param("weights", nn.initializers.ones, x.shape[-1:])
            factor, shift = weights * factor, weights * shift
        return affine_sum([x], [Affine(factor, shift)])
