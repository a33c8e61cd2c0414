"""SeqConv: a wide convolution as groups that read each other in sequence.

Paper: Huang et al., "Sequentially Aggregated Convolutional Networks", arXiv 1811.10798.

    SeqConv,  eq. 1:  x_i = F_i([x_0, x_1, ..., x_{i-1}])
    WSeqConv, eq. 2:  x_i = F_i([x_{i-g'}, x_{i-g'+1}, ..., x_{i-1}])
    output of both:   [x_1, x_2, ..., x_g]

x_0 is the input of the layer, g = features / k its groups. For eq. 2 the input is g' slices of k
channels, x_{1-g'}, ..., x_0, so that a group reads as many channels as the input has:

      input          groups                 A layer is one stage, whose y_0, ..., y_{g'-1} are
    [ s1 s2 s3 ]  ->  a1  a2  a3            the slices and y_{g'}, y_{g'+1}, ... the groups.
      '--'--'----->---'                     WSeqConv is the pattern "windowed" with g' as its
         '--'----->---'---'                 window, SeqConv "dense"; any other pattern is as
            '----->---'---'---'             good.

F_i is conv3x3(k)-BN-ReLU, as bottleneck (SeqConvB) conv1x1(k)-BN-ReLU-conv3x3(k)-BN-ReLU, whose
3x3 convolution has c subgroups in SeqResNeXt. What comes out of its last convolution is called raw
here: in the second layer of a residual block a slice of the stream of raw features is added to it,
before the normalisation.

Where the reference code differs: the down-sampling of the released SeqResNeXt extends the extension
by itself and not its input. Here all networks concatenate the input and the extension (Fig. 3).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from aggnets_jax.arguments import check_whole_number
from aggnets_jax.connectivity.aggregation import Aggregation, Outputs, make_aggregation
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import Topology, TopologyArgs, per_stage, stage_topologies
from aggnets_jax.errors import UserError


class Features(NamedTuple):
    """What a layer returns, twice [batch, height, width, channels].

    Attributes:
      raw: as they leave the last convolution, the residual added.
      activated: ReLU(BN(raw)), which is what other groups and layers read.
    """

    raw: jax.Array
    activated: jax.Array


class ConvNormReLU(nn.Module):
    """An ordinary convolution-BN-ReLU.

    Attributes:
      features: of the output.
      kernel_size: of the convolution.
      norm: makes batch normalisations.
      conv: makes convolutions.
      stride: of the convolution.
      groups: of the convolution.
    """

    features: int
    kernel_size: int
    norm: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]
    stride: int = 1
    groups: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> Features:
        """[batch, height, width, channels] -> [batch, height / stride, .., features] twice."""
        raw = self.conv(
            self.features, self.kernel_size, stride=self.stride, groups=self.groups, name="conv"
        )(x)
        return Features(raw, nn.relu(self.norm(name="norm")(raw)))


class Group(nn.Module):
    """The unit F_i, see above.

    Attributes:
      width: k, the channels of the output.
      bottleneck: whether a 1x1 convolution to k channels goes before.
      cardinality: c, the subgroups of the 3x3 convolution.
      norm: makes batch normalisations.
      conv: makes convolutions.
      dropout: makes the channel dropout of what the group reads.
      zero_init: whether the 3x3 convolution is 0 at first.
    """

    width: int
    bottleneck: bool
    cardinality: int
    norm: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]
    dropout: Callable[[], nn.Module]
    zero_init: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, residual: jax.Array | None = None) -> Features:
        """[..., channels] -> [..., width] twice; a residual [..., width] is added to the raw."""
        x, suffix = self.dropout()(x), ""
        if self.bottleneck:
            x = nn.relu(self.norm(name="norm1")(self.conv(self.width, 1, name="conv1")(x)))
            suffix = "2"
        conv = (
            partial(self.conv, kernel_init=nn.initializers.zeros) if self.zero_init else self.conv
        )
        raw = conv(self.width, 3, groups=self.cardinality, name=f"conv{suffix}")(x)
        if residual is not None:
            raw = raw + residual
        return Features(raw, nn.relu(self.norm(name=f"norm{suffix}")(raw)))


class _GroupAggregation:
    """Groups read activated features; the output of the layer joins both kinds of all groups."""

    def __init__(self, read: str | Callable[[], Aggregation], output: int) -> None:
        """Takes how groups read, and the number of the virtual layer that is the output."""
        self._read = make_aggregation(read)
        self._join = make_aggregation("concat")
        self._output = output

    def __call__(
        self, outputs: Outputs, sources: Sequence[int], layer: int, *weights: jax.Array
    ) -> jax.Array | Features:
        if layer == self._output:
            return self._join(outputs, sources, layer, *weights)
        read = {s: o.activated if isinstance(o, Features) else o for s, o in enumerate(outputs)}
        return self._read(read, sources, layer, *weights)


class SeqConv(nn.Module):
    """A layer of groups.

    Attributes:
      topology: who reads whom; y_0, ..., y_{slices-1} are slices of the input, the groups follow.
        It may be deeper than the layer, which then has its first positions.
      slices: g', into which the input is split.
      groups: g.
      group: `group(zero_init=..., name=...)` makes a `Group`.
      aggregation: of what a group reads.
      zero_init: whether the 3x3 convolutions are 0 at first.
    """

    topology: Topology
    slices: int
    groups: int
    group: Callable[..., nn.Module]
    aggregation: str | Callable[[], Aggregation] = "concat"
    zero_init: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, residual: jax.Array | None = None) -> Features:
        """Runs the layer.

        Args:
          x: [batch, height, width, channels], activated.
          residual: [batch, height, width, groups * k], slice i of which is added to what group i
            computes, before other groups read it.

        Returns:
          Both [batch, height, width, groups * k].

        Raises:
          UserError: for an input that can't be split.
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
    """Two layers, to the second of which the raw features are added (Fig. 2).

    As its 3x3 convolutions are 0 at first, the block begins as the identity on raw features.

    Attributes:
      seqconv: `seqconv(zero_init=..., name=...)` makes a layer of as many channels as the input.
    """

    seqconv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Features) -> Features:
        """[batch, height, width, channels] -> the same shape."""
        y = self.seqconv(zero_init=False, name="seqconv_a")(x.activated)
        return self.seqconv(zero_init=True, name="seqconv_b")(y.activated, residual=x.raw)


class Downsampling(nn.Module):
    """More channels by a layer, then half the resolution by a grouped convolution (Fig. 3).

    Attributes:
      extension: `extension(name=...)` makes the layer of the channels to add.
      downsizing: `downsizing(features, name=...)` makes the grouped convolution.
    """

    extension: Callable[..., nn.Module]
    downsizing: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Features) -> Features:
        """[batch, height, width, channels] -> [batch, height / 2, width / 2, more channels]."""
        more = self.extension(name="extension")(x.activated).activated
        joined = jnp.concatenate([x.activated, more], axis=-1)
        return self.downsizing(joined.shape[-1], name="downsizing")(joined)


def check_groups(
    widths: Sequence[int],
    group_widths: Sequence[int],
    cardinalities: Sequence[int],
    bottleneck: bool,
) -> None:
    """Raises `UserError` unless the features of all stages can be divided into groups.

    Args:
      widths: channels of each stage.
      group_widths: k of each stage.
      cardinalities: c of each stage.
      bottleneck: see `Group`.
    """
    for i, (width, k, c) in enumerate(zip(widths, group_widths, cardinalities, strict=True)):
        check_whole_number("group_width", k, 1)
        check_whole_number("cardinality", c, 1)
        # The layer that extends this stage to the width of the next has groups of this width, too.
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
    name: str | Sequence[str], arguments: TopologyArgs, slices: Sequence[int]
) -> tuple[Topology, ...]:
    """Builds the topologies of layers with at most as many groups as slices of their input.

    Args:
      name: of a pattern, or one for each stage.
      arguments: of the pattern, or one mapping for each stage. The window of "windowed" is the
        slices of the input if it is not given.
      slices: of the layers' input in each stage.

    Raises:
      UserError: as `make_topology`, and for a group of the first layer of a residual block that
        nothing reads.
    """
    names = per_stage("topology", name, len(slices))
    mappings = per_stage("topology_args", arguments or {}, len(slices))
    mappings = [
        {"window": count} if name == "windowed" and not mapping else mapping
        for name, mapping, count in zip(names, mappings, slices, strict=True)
    ]
    # As many groups as slices; none is unread, as all of them are the output of their layer.
    depths = [2 * count - 1 for count in slices]
    topologies = stage_topologies(names, mappings, depths, shortcuts=True)
    for pattern, count in zip(topologies, slices, strict=True):
        _check_first_layer(pattern, count)
    return topologies


def group_topology(topology: Topology, slices: int, groups: int) -> Topology:
    """Who reads whom among the groups of a layer, y_0 being the whole of its input.

    Args:
      topology: of the layer, y_0, ..., y_{slices-1} being slices of its input.
      slices: of its input.
      groups: g.
    """
    read = topology.sources[slices - 1 : slices - 1 + groups]
    sources = (tuple(sorted({max(0, source - slices + 1) for source in each})) for each in read)
    return Topology(topology.name, (*sources, tuple(range(1, groups + 1))))


def _check_first_layer(topology: Topology, slices: int) -> None:
    """Of a residual block's first layer only what the second reads goes on."""
    read = {s for sources in topology.sources[slices - 1 : -1] for s in sources}
    dead = [group for group in range(slices) if group not in read and group + slices not in read]
    if dead:
        raise UserError(
            f"topology {topology.name!r}: nothing reads group {dead[0] + 1} of {slices} in the"
            " first layer of a residual block, whose parameters would do nothing"
        )
