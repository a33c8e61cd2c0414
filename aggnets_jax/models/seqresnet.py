"""SeqResNet, SeqResNet-B and SeqResNeXt: residual networks of SeqConv layers.

Paper: Huang et al., "Sequentially Aggregated Convolutional Networks", arXiv 1811.10798,
Tables 1 and 2. The layers, with the equations, are in `seqconv`.

    stem              stage 1                 stage 2                   head
    conv .. SeqConv | [A B] .. [A B] | down | [A B] .. [A B] | down | ..  |  conv1x1 - pool - fc
                        raw ---(+)->          raw ---(+)->

A and B are the two WSeqConv layers of a residual block. Down is a WSeqConv layer that extends the
features to the width of the next stage, and a grouped convolution of stride 2, whose raw features
are the first of the next stage. The layer of the stem is a SeqConv, without window.

* CIFAR: stem conv3x3(16) and a layer; widths 16r, 32r, 48r; N blocks in each stage; groups of k.
* ImageNet: stem of two conv3x3(32), the first of stride 2, a layer at 112x112 and a grouped
  convolution of stride 2; four stages of widths 128, 256, 512, 1024 (SeqResNeXt twice that) and
  groups of 32, 64, 64, 128.

Names ending in "_full" are without window everywhere (Table 5, S2): the pattern "dense". The
paper's FLOPs are `flops.in_binary_units`. Its dropout of 0.1 for CIFAR is an argument here.

The paper draws the classifier uniformly within sqrt(6 / (features + classes)) (Glorot and Bengio,
2010). The reference code, and this file, draw it within sqrt(3 / classes), by the fan-out alone.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax

from aggnets_jax.arguments import check_number, check_whole_number, known_depth
from aggnets_jax.connectivity.aggregation import check_aggregation
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import (
    MAX_DEPTH,
    Topology,
    TopologyArgs,
    TopologyLike,
    make_topology,
    per_stage,
)
from aggnets_jax.errors import UserError
from aggnets_jax.layers import common, seqconv
from aggnets_jax.models.flops import in_binary_units
from aggnets_jax.models.network import Endpoints, Network
from aggnets_jax.models.registry import IMAGENET, register_family
from aggnets_jax.models.sparsenet import NUMBERS


class SeqResNet(Network):
    """Stem, stages of `ResidualBlock` with `Downsampling` between them, head.

    The endpoints of the stages are activated features; the endpoint of the stem is the input of the
    first stage.

    Attributes:
      layer_topologies: topology of each stage's layers; y_0, ... are slices of a layer's input.
      widths: channels of each stage.
      group_widths: k of each stage.
      cardinalities: c of each stage.
      blocks: residual blocks of each stage.
      bottleneck: whether groups have a 1x1 convolution before the 3x3.
      imagenet_stem: whether the stem is for large images.
      aggregation: "concat", or "sum" or "mean" of slices and groups; the stem has "concat".
      dropout: probability of dropping a channel of the head's input, or of a group after the stem.
    """

    layer_topologies: tuple[Topology, ...]
    widths: tuple[int, ...]
    group_widths: tuple[int, ...]
    cardinalities: tuple[int, ...]
    blocks: tuple[int, ...]
    bottleneck: bool
    imagenet_stem: bool
    aggregation: str = "concat"
    dropout: float = 0.0

    def _features(
        self, x: jax.Array, endpoints: Endpoints, norm: common.Norm, conv: common.Conv, train: bool
    ) -> jax.Array:
        conv = partial(conv, kernel_init=common.he_fan_out_uniform)
        dropout = partial(common.channel_dropout, self.dropout, train=train)
        plain = partial(seqconv.ConvNormReLU, norm=norm, conv=conv)
        group = partial(seqconv.Group, bottleneck=self.bottleneck, norm=norm, conv=conv)
        no_dropout = partial(common.channel_dropout, 0.0, train=train)
        features = self._stem(x, plain, partial(group, dropout=no_dropout))
        endpoints["stem"] = features.activated
        group = partial(group, dropout=dropout)
        for i, blocks in enumerate(self.blocks):
            if i > 0:
                more = self.widths[i] - self.widths[i - 1]
                features = seqconv.Downsampling(
                    extension=self._layer(i - 1, more, group),
                    downsizing=self._downsizing(i, plain),
                    name=f"downsample{i}",
                )(features)
            features = Stage(
                make_topology("plain", blocks),
                unit=partial(seqconv.ResidualBlock, self._layer(i, self.widths[i], group)),
                execution=self.execution,
                kind=lambda layer: None,
                name=f"stage{i + 1}",
            )(features)
            endpoints[f"stage{i + 1}"] = features.activated
        return plain(self.widths[-1], 1, name="head")(dropout()(features.activated)).activated

    def _head(self, x: jax.Array, train: bool) -> dict[str, Any]:
        return {"kernel_init": common.uniform_fan_out}

    @property
    def topologies(self) -> tuple[Topology, ...]:
        """The topologies of the groups of all layers, first of one layer of each stage."""
        slices = [width // k for width, k in zip(self.widths, self.group_widths, strict=True)]
        layers = list(zip(self.layer_topologies, slices, strict=True))
        stages = [seqconv.group_topology(topology, n, n) for topology, n in layers]
        blocks = [[topology] * (2 * n - 1) for topology, n in zip(stages, self.blocks, strict=True)]
        wider = zip(layers, self.widths[1:], self.group_widths, strict=False)
        extensions = [seqconv.group_topology(t, n, w // k - n) for (t, n), w, k in wider]
        stem = seqconv.group_topology(make_topology("dense", slices[0]), 1, slices[0])
        return (*stages, stem, *itertools.chain(*blocks), *extensions)

    def _stem(self, x: jax.Array, plain: Callable[..., Any], group: Any) -> seqconv.Features:
        """Return the input of the first stage; the layer of the stem has the whole input as y_0."""
        layer = self._layer(0, self.widths[0], group, stem=True)
        if not self.imagenet_stem:
            return layer(name="stem_seqconv")(plain(16, 3, name="stem_conv")(x).activated)
        x = plain(32, 3, stride=2, name="stem1")(x).activated
        x = plain(32, 3, name="stem2")(x).activated
        x = layer(name="stem3")(x).activated
        return self._downsizing(0, plain)(self.widths[0], name="stem4")(x)

    def _layer(self, stage: int, features: int, group: Any, *, stem: bool = False) -> Any:
        """Return a function that makes layers that read the features of a stage, or of the stem."""
        k = self.group_widths[stage]
        groups = features // k
        return partial(
            seqconv.SeqConv,
            make_topology("dense", groups) if stem else self.layer_topologies[stage],
            slices=1 if stem else self.widths[stage] // k,
            groups=groups,
            group=partial(group, k, cardinality=self.cardinalities[stage]),
            aggregation="concat" if stem else self.aggregation,
        )

    def _downsizing(self, stage: int, plain: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that makes the grouped convolution into a stage."""
        groups = self.widths[stage] // self.group_widths[stage] * self.cardinalities[stage]
        return partial(plain, kernel_size=3, stride=2, groups=groups)


class SeqResNeXt(SeqResNet):
    """A SeqResNet-B with subgroups in its 3x3 convolutions."""


def seqresnet(
    *,
    widening: int | None = None,
    width: int | None = None,
    depth: int | None = None,
    blocks: int | Sequence[int] | None = None,
    group_width: int | Sequence[int],
    bottleneck: bool,
    cardinality: int | Sequence[int] = 1,
    topology: TopologyLike = "windowed",
    topology_args: TopologyArgs = None,
    **fields: Any,
) -> SeqResNet:
    """Build a `SeqResNet` for CIFAR (Table 1) or for ImageNet (Table 2).

    Args:
      widening: r for CIFAR; the stages have 16r, 32r and 48r channels.
      width: channels of the first stage for ImageNet, doubled in each later one.
      depth: 22, 24 or 42, which gives `blocks`.
      blocks: N, or one for each stage; default from `depth`.
      group_width: k, or one for each stage.
      bottleneck: whether groups have a 1x1 convolution before the 3x3.
      cardinality: c, or one for each stage.
      topology: pattern of the slices of a layer's input and its groups, or one for each stage. The
        pattern's output is not used.
      topology_args: arguments of the pattern, or one mapping for each stage.
      **fields: further fields of `SeqResNet`.

    Raises:
      UserError: for numbers that fit no network.
    """
    if (widening is None) == (width is None):
        raise UserError("a network needs one of the arguments 'widening' and 'width'")
    if width is None:
        check_whole_number("widening", widening, 1)
        widths = (16 * widening, 32 * widening, 48 * widening)
    else:
        check_whole_number("width", width, 1)
        widths = (width, 2 * width, 4 * width, 8 * width)
    blocks = known_depth(depth, IMAGENET_BLOCKS) if blocks is None else blocks
    group_widths = per_stage("group_width", group_width, len(widths))
    cardinalities = per_stage("cardinality", cardinality, len(widths))
    blocks = per_stage("blocks", blocks, len(widths))
    for number in blocks:
        check_whole_number("blocks", number, 1, MAX_DEPTH)
    seqconv.check_groups(widths, group_widths, cardinalities, bottleneck)
    network = (SeqResNeXt if max(cardinalities) > 1 else SeqResNet)(
        layer_topologies=seqconv.layer_topologies(topology, topology_args, widths, group_widths),
        widths=widths,
        group_widths=group_widths,
        cardinalities=cardinalities,
        blocks=blocks,
        bottleneck=bottleneck,
        imagenet_stem=width is not None,
        **fields,
    )
    check_number("dropout", network.dropout, 0, 0.99)
    check_aggregation(network.aggregation)
    return network


# 2 * blocks + 12 layers, with a bottleneck counted as one.
IMAGENET_BLOCKS = {22: (1, 1, 2, 1), 24: (1, 1, 3, 1), 42: (3, 4, 5, 3)}
_K = rf"_k(?P<group_width>{NUMBERS})"
_R_N = rf"_r(?P<widening>\d+)_n(?P<blocks>{NUMBERS})"


def _blocks(text: str) -> int | tuple[int, ...]:
    """Parse a number for each stage, joined by "_" or three digits, or one number for all."""
    parts = text.split("_") if "_" in text or len(text) != 3 else text
    return int(text) if len(parts) == 1 else tuple(map(int, parts))


_B = {"bottleneck": True}
_LARGE = {**_B, "width": 128, "group_width": (32, 64, 64, 128)}
_LARGE_NEXT = {**_LARGE, "width": 256, "cardinality": (8, 8, 4, 4)}

for _name, _pattern, _fields, _registered in [
    ("seqresnet", rf"seqresnet{_K}{_R_N}", {"bottleneck": False}, {}),
    ("seqresnet_b", rf"seqresnet_b{_K}{_R_N}", _B, {}),
    ("seqresnext", rf"seqresnext{_K}_c(?P<cardinality>{NUMBERS}){_R_N}", _B, {}),
    ("seqresnet_b_imagenet", r"seqresnet_b(?P<depth>\d+)", _LARGE, IMAGENET),
    ("seqresnext_imagenet", r"seqresnext(?P<depth>\d+)", _LARGE_NEXT, IMAGENET),
]:
    register_family(
        _name,
        partial(seqresnet, **_fields),
        pattern=rf"{_pattern}(?P<topology>_full)?",
        paper="Sequentially Aggregated Convolutional Networks, arXiv 1811.10798",
        parse={"topology": lambda _: "dense", "blocks": _blocks},
        flops=in_binary_units,
        **_registered,
    )
