"""SeqConv: a wide convolution split into groups that read each other in sequence.

Paper: Huang et al., "Sequentially Aggregated Convolutional Networks", arXiv 1811.10798.

    SeqConv,  eq. 1:  x_i = F_i([x_0, x_1, ..., x_{i-1}])
    WSeqConv, eq. 2:  x_i = F_i([x_{i-g'}, x_{i-g'+1}, ..., x_{i-1}])
    output of both:   [x_1, x_2, ..., x_g]

x_0 is the input of the layer, and g = features / k is the number of groups. For eq. 2 the input is
split into g' slices of k channels, x_{1-g'}, ..., x_0, so that a group reads as many channels as
the input has:

      input          groups                 A layer is one stage: y_0, ..., y_{g'-1} are the
    [ s1 s2 s3 ]  ->  a1  a2  a3            slices, and y_{g'}, y_{g'+1}, ... the groups.
      '--'--'----->---'                     WSeqConv is the pattern "windowed" with the window
         '--'----->---'---'                 g', SeqConv is "dense"; other patterns work, too.
            '----->---'---'---'

F_i is conv3x3(k)-BN-ReLU, or as a bottleneck (SeqConvB) conv1x1(k)-BN-ReLU-conv3x3(k)-BN-ReLU; the
3x3 convolution of SeqResNeXt has c subgroups. The output of the last convolution is called raw. In
the second layer of a residual block, a slice of the raw features of the block's input is added to
it before the normalisation.

Where the reference code differs: the down-sampling of the released SeqResNeXt concatenates the
extension with itself. Here all networks concatenate the input and the extension (Fig. 3).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from aggnets_jax.arguments import check_whole_number
from aggnets_jax.connectivity.aggregation import Aggregation, Outputs, concat, make_aggregation
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import (
    Topology,
    TopologyArgs,
    TopologyLike,
    per_stage,
    stage_patterns,
    stage_topologies,
)
from aggnets_jax.errors import UserError
from aggnets_jax.layers.common import Conv, Norm


class Features(NamedTuple):
    """The output of a layer, twice [batch, height, width, channels].

    Attributes:
      raw: the output of the last convolution, plus the residual.
      activated: ReLU(BN(raw)), which other groups and layers read.
    """

    raw: jax.Array
    activated: jax.Array


class ConvNormReLU(nn.Module):
    """An ordinary convolution-BN-ReLU."""

    features: int
    kernel_size: int
    norm: Norm
    conv: Conv
    stride: int = 1
    groups: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> Features:
        """Map [batch, height, width, channels] to [batch, height / stride, .., features], twice."""
        raw = self.conv(
            self.features, self.kernel_size, stride=self.stride, groups=self.groups, name="conv"
        )(x)
        return Features(raw, nn.relu(self.norm(name="norm")(raw)))


class Group(nn.Module):
    """The unit F_i, see above.

    Attributes:
      width: k, the channels of the output.
      bottleneck: whether a 1x1 convolution to k channels comes first.
      cardinality: c, the subgroups of the 3x3 convolution.
      dropout: makes the channel dropout of the group's input.
      zero_init: whether the 3x3 convolution is initially 0.
    """

    width: int
    bottleneck: bool
    cardinality: int
    norm: Norm
    conv: Conv
    dropout: Callable[[], nn.Module]
    zero_init: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, residual: jax.Array | None = None) -> Features:
        """Map [..., channels] to [..., width], twice; add the residual [..., width] to the raw."""
        x, suffix = self.dropout()(x), ""
        if self.bottleneck:
            x = nn.relu(self.norm(name="norm1")(self.conv(self.width, 1, name="conv1")(x)))
            suffix = "2"
        init = {"kernel_init": nn.initializers.zeros} if self.zero_init else {}
        raw = self.conv(self.width, 3, groups=self.cardinality, name=f"conv{suffix}", **init)(x)
        if residual is not None:
            raw = raw + residual
        return Features(raw, nn.relu(self.norm(name=f"norm{suffix}")(raw)))


class _GroupAggregation:
    """Groups aggregate activated features; the output joins raw and activated of all groups."""

    def __init__(self, read: str | Callable[[], Aggregation], output: int) -> None:
        """Take the aggregation of groups, and the number of the virtual layer for the output."""
        self._read = make_aggregation(read)
        self._output = output

    def __call__(
        self, outputs: Outputs, sources: Sequence[int], layer: int, *weights: jax.Array
    ) -> jax.Array | Features:
        if layer == self._output:
            return concat(outputs, sources, layer, *weights)
        read = {s: o.activated if isinstance(o, Features) else o for s, o in enumerate(outputs)}
        return self._read(read, sources, layer, *weights)


class SeqConv(nn.Module):
    """A layer of groups.

    Attributes:
      topology: y_0, ..., y_{slices-1} are slices of the input, the groups follow. It may be deeper
        than the layer, which then uses its first positions.
      slices: g', the number of slices of the input.
      groups: g, the number of groups.
      group: `group(zero_init=..., name=...)` makes a `Group`.
      aggregation: combines the sources of a group.
      zero_init: whether the 3x3 convolutions are initially 0.
    """

    topology: Topology
    slices: int
    groups: int
    group: Callable[..., nn.Module]
    aggregation: str | Callable[[], Aggregation] = "concat"
    zero_init: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, residual: jax.Array | None = None) -> Features:
        """Map activated [batch, height, width, channels] to [.., groups * k], twice.

        Slice i of the residual, raw features of the output's shape, is added to the raw output of
        group i, before other groups read it. Raise `UserError` for an input that can't be split.
        """
        if x.shape[-1] % self.slices:
            raise UserError(f"{x.shape[-1]} channels can't be split into {self.slices} slices")
        output = self.slices + self.groups
        sources = (*self.topology.sources[: output - 1], tuple(range(self.slices, output)))
        residuals = None if residual is None else jnp.split(residual, self.groups, axis=-1)

        def unit(layer: int, name: str) -> Callable[[jax.Array], Features]:
            group = self.group(zero_init=self.zero_init, name=name)
            return group if residuals is None else partial(group, residual=residuals[layer - 1])

        return Stage(
            Topology(self.topology.name, sources),
            unit=unit,
            aggregation=partial(_GroupAggregation, self.aggregation, output),
            name="groups",
        )(*jnp.split(x, self.slices, axis=-1))


class ResidualBlock(nn.Module):
    """Two layers; the raw input is added to the raw output of the second (Fig. 2).

    The 3x3 convolutions of the second are initially 0, so the block starts as the identity.
    `seqconv(zero_init=..., name=...)` makes a layer that keeps the number of channels.
    """

    seqconv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Features) -> Features:
        """Map [batch, height, width, channels], twice, to the same shape."""
        y = self.seqconv(zero_init=False, name="seqconv_a")(x.activated)
        return self.seqconv(zero_init=True, name="seqconv_b")(y.activated, residual=x.raw)


class Downsampling(nn.Module):
    """A layer that adds channels, then a grouped convolution that halves the resolution (Fig. 3).

    Attributes:
      extension: `extension(name=...)` makes the layer that computes the channels to add.
      downsizing: `downsizing(features, name=...)` makes the grouped convolution.
    """

    extension: Callable[..., nn.Module]
    downsizing: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Features) -> Features:
        """Map [batch, height, width, channels] to [batch, height / 2, width / 2, more channels]."""
        more = self.extension(name="extension")(x.activated).activated
        joined = jnp.concatenate([x.activated, more], axis=-1)
        return self.downsizing(joined.shape[-1], name="downsizing")(joined)


def check_groups(
    widths: Sequence[int],
    group_widths: Sequence[int],
    cardinalities: Sequence[int],
    bottleneck: bool,
) -> None:
    """Raise `UserError` unless the channels of all stages divide into groups of k, and k by c."""
    for i, (width, k, c) in enumerate(zip(widths, group_widths, cardinalities, strict=True)):
        check_whole_number("group_width", k, 1)
        check_whole_number("cardinality", c, 1)
        # The layer that extends this stage to the next one's width has groups of this width, too.
        channels = math.gcd(width, *(w - width for w in widths[i + 1 : i + 2]))
        if channels % k:
            small = [n for n in range(1, math.isqrt(channels) + 1) if channels % n == 0]
            fitting = [*small, *(channels // n for n in small)]
            nearest = min(fitting, key=lambda n, k=k: (abs(n - k), n))
            raise UserError(
                f"stage {i + 1}: {channels} channels are not divisible into groups of group_width"
                f" {k}; nearest {nearest}"
            )
        if k % c:
            raise UserError(f"group_width {k} is not divisible by cardinality {c}")
        if c > 1 and not bottleneck:
            raise UserError(f"groups without bottleneck have no subgroups: cardinality {c}, not 1")


def layer_topologies(
    pattern: TopologyLike,
    arguments: TopologyArgs,
    widths: Sequence[int],
    group_widths: Sequence[int],
) -> tuple[Topology, ...]:
    """Make the topologies of layers, for each stage, with at most as many groups as slices.

    The arguments are those of `stage_topologies`, but slices, of a layer's input, in the place of
    depths. The default window of "windowed" is the number of slices. Raise `UserError`, too, if
    nothing reads a group of the first layer of a residual block.
    """
    slices = [width // k for width, k in zip(widths, group_widths, strict=True)]
    patterns = stage_patterns(pattern, len(slices))
    mappings = per_stage("topology_args", arguments or {}, len(slices))
    mappings = [
        {"window": count} if each == "windowed" and not mapping else mapping
        for each, mapping, count in zip(patterns, mappings, slices, strict=True)
    ]
    # As many groups as slices. No group is unread, because all are part of their layer's output.
    depths = [2 * count - 1 for count in slices]
    topologies = stage_topologies(patterns, mappings, depths, shortcuts=True)
    for topology, count in zip(topologies, slices, strict=True):
        read = {s for sources in topology.sources[count - 1 : -1] for s in sources}
        dead = [group for group in range(count) if group not in read and group + count not in read]
        if dead:
            raise UserError(
                f"topology {topology.name!r}: nothing reads group {dead[0] + 1} of {count} in the"
                " first layer of a residual block, whose parameters would do nothing"
            )
    return topologies


def group_topology(topology: Topology, slices: int, groups: int) -> Topology:
    """Return the connections between the groups of a layer, with its whole input as y_0.

    In the layer's own `topology` y_0, ..., y_{slices-1} are slices of its input.
    """
    read = topology.sources[slices - 1 : slices - 1 + groups]
    sources = (tuple(sorted({max(0, source - slices + 1) for source in each})) for each in read)
    return Topology(topology.name, (*sources, tuple(range(1, groups + 1))))
