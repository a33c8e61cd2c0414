"""Shortcuts of residual networks: the sums that are added to the outputs of blocks.

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

N(y_i) is computed once for each output and shared by all blocks that add it.
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
from aggnets_jax.connectivity.features import shifted_moments
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import Topology
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.layers.batch_norm import AffineBatchNorm

AffineNorm = Callable[..., Callable[[jax.Array], Affine]]
"""`norm(name=...)` makes a normalisation: a function that returns the map it applies to x."""


def _groups(channels: int) -> int:
    """Return the largest divisor of `channels` up to 32 that leaves 4 channels in each group."""
    most = min(32, max(1, channels // 4))
    return next(n for n in range(most, 0, -1) if channels % n == 0)


class GroupNorm(nn.Module):
    """Group normalisation in `groups(channels)` groups, without scale and shift.

    Its statistics are in at least float32.
    """

    groups: Callable[[int], int]

    @nn.compact
    def __call__(self, x: jax.Array) -> Affine:
        """Return the map of x [batch, ..., channels]: factor and shift [batch, 1, 1, channels].

        Raise `UserError` for groups of one value, which the map would make 0.
        """
        channels = x.shape[-1]
        groups = self.groups(channels)
        wide = jnp.promote_types(x.dtype, jnp.float32)
        x = x.reshape(x.shape[0], -1, channels)
        if x.shape[1] * channels == groups and not self.is_initializing():
            raise UserError(
                f"the normalisation {'/'.join(self.path)!r} gets one value in each group and would"
                " always return 0; it needs larger images, or more channels in a group"
            )

        def mean(values: jax.Array) -> jax.Array:
            # Over positions first: groups of x itself would be another layout, so a copy of it.
            by_channel = values.mean(1).reshape(-1, groups, channels // groups)
            return jnp.repeat(by_channel.mean(2), channels // groups, 1)[:, None]

        # Each reader widens x for itself: a wide copy would be written for the two of them.
        center = mean(x[:, x.shape[1] // 2, None].astype(wide))
        average, var = shifted_moments(x.astype(wide), center, partial(jax.tree.map, mean))
        factor = jax.lax.rsqrt(var + 1e-5)
        return jax.tree.map(lambda v: v[:, None], Affine(factor, -average * factor))


def _identity(x: jax.Array) -> Affine:
    return Affine(jnp.ones((), x.dtype), jnp.zeros((), x.dtype))


NORMS: dict[str, Callable[[bool], AffineNorm]] = {
    "group": lambda train: partial(GroupNorm, _groups),
    "layer": lambda train: partial(GroupNorm, lambda channels: 1),
    "instance": lambda train: partial(GroupNorm, lambda channels: channels),
    "batch": lambda train: partial(
        AffineBatchNorm, use_running_average=not train, dtype=jnp.float32
    ),
    "none": lambda train: lambda name: _identity,
}
"""The normalisations of Table 1 by name, made by `NORMS[name](train)`. None has a scale and a shift
of its own, because W would make them redundant."""

AGGREGATIONS = ("sum", "mean", "normalised_sum")
SOURCES = ("outputs", "blocks")


class Joined(NamedTuple):
    """The output of a layer beside its branch F, from which shortcuts of variant (a) start."""

    output: jax.Array
    block: jax.Array


@dataclasses.dataclass(frozen=True)
class Shortcuts:
    """The kind of shortcuts that a residual network has.

    Attributes:
      aggregation: "sum", "mean", or "normalised_sum".
      norm: N of "normalised_sum", a key of `NORMS`.
      weighted: whether W of "normalised_sum" is learnt rather than 1.
      sources: whether shortcuts start from "outputs" y_i or from "blocks" F_i (variant a).
      inner: whether there are shortcuts w N(z) within the blocks, too (DS2Net).

    Raise `UserError` for an unknown name, an aggregation that changes the width, or a norm or
    weights that would not be used.
    """

    aggregation: str = "sum"
    norm: str = "group"
    weighted: bool = True
    sources: str = "outputs"
    inner: bool = False

    def __post_init__(self) -> None:
        because = "it would widen the shortcut, which is added to what a block computes"
        check_aggregation(self.aggregation, AGGREGATIONS, because)
        choose("shortcut_norm", NORMS, self.norm)
        if self.sources not in SOURCES:
            raise unknown("shortcut_sources", str(self.sources), SOURCES)
        normalised = self.aggregation == "normalised_sum" or self.inner
        if not normalised and (self.norm, self.weighted) != ("group", True):
            raise UserError(
                "shortcut_norm and shortcut_weights need the aggregation 'normalised_sum', got"
                f" {self.aggregation!r}"
            )

    def make_norm(self, *, train: bool) -> AffineNorm:
        """Return the maker of the normalisation N."""
        return NORMS[self.norm](train)

    def make_aggregation(self, *, train: bool) -> Aggregation:
        """Make a new aggregation of outputs, or of pairs `Joined` (variant a)."""
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
        """Run a stage of blocks that keep the shape of x, and return the output of the last.

        x is y_0 [batch, height, width, channels], the output of the stage's first block, which
        changes the width. `block(layer, name=...)` makes F of layer 1, 2, ...; the activation
        follows the sum. `train` says whether batch normalisation as N normalises by the batch. The
        rest is as for `Stage`.
        """
        pairs = self.sources == "blocks"

        def unit(layer: int, name: str) -> Callable[[Any, jax.Array], Any]:
            compute = block(layer, name=name)

            def join(previous: Any, shortcut: jax.Array) -> Any:
                residual = compute(previous.output if pairs else previous)
                output = activation(residual + shortcut)
                return Joined(output, residual) if pairs else output

            return join

        plain = self.aggregation == "sum" and not pairs
        output = Stage(
            topology,
            unit,
            aggregation=self.aggregation if plain else partial(self.make_aggregation, train=train),
            shortcuts=True,
            execution=execution,
            kind=kind,
            name=name,
        )(Joined(x, x) if pairs else x)
        return output.output if pairs else output


class NormalisedShortcut(nn.Module):
    """w * N(x), by channel, w 1 or learnt: the shortcut within a block (DS2Net, Section 3.3)."""

    norm: AffineNorm
    weighted: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [batch, height, width, channels] to the same shape."""
        factor, shift = self.norm(name="norm")(x)
        if self.weighted:
            weights = self.param("weights", nn.initializers.ones, x.shape[-1:])
            factor, shift = weights * factor, weights * shift
        return affine_sum([x], [Affine(factor, shift)])
