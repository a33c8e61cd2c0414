"""DenseNet and SparseNet[concat]: one network, two topologies.

Paper: Zhu et al., "Sparsely Aggregated Convolutional Networks", ECCV 2018, arXiv 1801.05895, and
Huang et al., "Densely Connected Convolutional Networks", CVPR 2017, arXiv 1608.06993.

    SparseNet, eq. 2:  y_l = F_l(concat(y_{l-1}, y_{l-2}, y_{l-4}, y_{l-8}, ...))
    DenseNet,  eq. 3:  y_l = F_l(concat(y_0, y_1, ..., y_{l-1}))

y_0 is the stage's input, and the stage's output is the same rule for layer N + 1. F_l is
BN-ReLU-conv3x3(k), or with bottleneck BN-ReLU-conv1x1(4k)-BN-ReLU-conv3x3(k). Between the stages a
transition BN-ReLU-conv1x1-avgpool compresses the channels by theta.

Where the papers and the reference code differ, or the print is wrong:
* Offsets start at 2^0 and y_0 counts as any other output; a layer has floor(log2 l) + 1 links, one
  more than eq. 4 prints.
* The named ImageNet SparseNets average the last 7x7 map to 3x3 and feed all nine values of each
  channel to the classifier: this head alone gives the parameters of Table 4, to the digit.
  `pool="global"` gives the usual head.
* The transition convolution stays where nothing is compressed (theta = 1).
* "1001 layers" are 6 * 166 + 4, that is 1000.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from flax import linen as nn

from aggnets_jax.arguments import (
    check_number,
    check_whole_number,
    choose,
    known_depth,
    layers_in_depth,
)
from aggnets_jax.connectivity.aggregation import check_aggregation
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import (
    Topology,
    TopologyArgs,
    TopologyLike,
    per_stage,
    stage_topologies,
)
from aggnets_jax.connectivity.unit import find_unit
from aggnets_jax.errors import UserError
from aggnets_jax.layers import common
from aggnets_jax.layers.dense_layers import DenseLayer, Transition
from aggnets_jax.models.flops import two_for_each_multiply_add
from aggnets_jax.models.network import Endpoints, Network
from aggnets_jax.models.registry import IMAGENET, register_family


class SparseNet(Network):
    """Stem, stages of `DenseLayer` with transitions between them, head.

    Attributes:
      topologies: topology of each stage.
      growth_rates: k of each stage.
      stem_features: channels of the stem.
      groups: groups of the 3x3 convolutions.
      bottleneck: whether layers have a 1x1 convolution before the 3x3.
      compression: theta of the transitions.
      aggregation: "concat"; with "sum" or "mean" a 1x1 convolution brings y_0 to k channels.
      imagenet_stem: conv7x7/2-BN-ReLU-maxpool3x3/2 in the place of a 3x3 convolution.
      unit: unit of one's own in the place of the paper's: its name or module (docs/plugins.md).
      pool: "global", or "flatten" for the head of Table 4's networks.
      dropout: probability of dropping a channel after each convolution of a layer.
    """

    topologies: tuple[Topology, ...]
    growth_rates: tuple[int, ...]
    stem_features: int
    groups: int
    bottleneck: bool = False
    compression: float = 1.0
    aggregation: str = "concat"
    imagenet_stem: bool = False
    unit: str | Callable[..., nn.Module] | None = None
    pool: str = "global"
    dropout: float = 0.0

    def __repr__(self) -> str:
        """Return fields and modules; with dense stages the network is called a DenseNet."""
        dense = all(topology.name == "dense" for topology in self.topologies)
        name = "DenseNet" if dense and self.aggregation == "concat" else type(self).__name__
        return super().__repr__().replace(type(self).__name__, name, 1)

    def _features(
        self, x: jax.Array, endpoints: Endpoints, norm: common.Norm, conv: common.Conv, train: bool
    ) -> jax.Array:
        dropout = partial(common.channel_dropout, self.dropout, train=train)
        own = None if self.unit is None else find_unit(self.unit)

        def dense_layer(k: int) -> partial:
            return partial(DenseLayer, k, self.bottleneck, self.groups, norm, conv, dropout)

        if self.imagenet_stem:
            x = common.imagenet_stem(x, self.stem_features, norm=norm, conv=conv)
        else:
            x = conv(self.stem_features, 3, name="stem_conv")(x)
        endpoints["stem"] = x

        for i, (topology, k) in enumerate(zip(self.topologies, self.growth_rates, strict=True), 1):
            if i > 1:
                x = Transition(self.compression, norm, conv, name=f"transition{i - 1}")(x)
            x = Stage(
                topology,
                unit=dense_layer(k) if own is None else partial(own, k, norm=norm, conv=conv),
                aggregation=self.aggregation,
                projection=None if self.aggregation == "concat" else partial(conv, k, 1),
                preactivated=own is None,
                train=train,
                kind=lambda layer: None,
                execution=self.execution,
                name=f"stage{i}",
            )(x)
            endpoints[f"stage{i}"] = common.features_of(x)

        return common.activate(norm(name="head_norm"), x)

    def _head(self, x: jax.Array, train: bool) -> dict[str, Any]:
        return {"pool": common.POOLS[self.pool]}


def sparsenet(
    *,
    depth: int | None = None,
    growth_rate: int | Sequence[int],
    topology: TopologyLike,
    topology_args: TopologyArgs = None,
    stage_depths: Sequence[int] | None = None,
    stem_features: int | None = None,
    groups: int = 1,
    imagenet_stem: bool = False,
    bottleneck: bool = False,
    **fields: Any,
) -> SparseNet:
    """Build a `SparseNet` from the numbers in its name.

    Args:
      depth: convolutions on the longest path, and the classifier; needed without `stage_depths`.
      growth_rate: k, or one for each stage.
      topology: name of a pattern, or one for each stage.
      topology_args: arguments of the pattern, or one mapping for each stage.
      stage_depths: layers of each stage; default from `depth`.
      stem_features: default 2k, and k with `imagenet_stem`.
      groups: groups of the 3x3 convolutions.
      imagenet_stem: whether for large images.
      bottleneck: whether layers have a 1x1 convolution before the 3x3.
      **fields: further fields of `SparseNet`.

    Raises:
      UserError: for numbers that fit no network.
    """
    if stage_depths is None:
        stage_depths = _stage_depths(depth, bottleneck, imagenet_stem)
    growth_rates = checked_growth_rates(growth_rate, len(stage_depths), groups)
    if stem_features is None:
        stem_features = growth_rates[0] * (1 if imagenet_stem else 2)
    check_whole_number("stem_features", stem_features, 1)
    network = SparseNet(
        topologies=stage_topologies(topology, topology_args, stage_depths),
        growth_rates=growth_rates,
        stem_features=stem_features,
        groups=groups,
        bottleneck=bottleneck,
        imagenet_stem=imagenet_stem,
        **fields,
    )
    check_number("compression", network.compression, 0.01, 1)
    check_number("dropout", network.dropout, 0, 0.99)
    check_aggregation(network.aggregation)
    choose("pool", common.POOLS, network.pool)
    if network.unit is not None:
        find_unit(network.unit)
    return network


def checked_growth_rates(
    growth_rate: int | Sequence[int], stages: int, groups: int, least: int = 1
) -> tuple[int, ...]:
    """Return k of each stage; raise `UserError` unless groups divide it and it is large enough."""
    check_whole_number("groups", groups, 1)
    growth_rates = per_stage("growth_rate", growth_rate, stages)
    for k in growth_rates:
        check_whole_number("growth_rate", k, least)
        if k % groups:
            raise UserError(f"growth_rate {k} is not divisible by groups {groups}")
    return growth_rates


IMAGENET_DEPTHS = {
    121: (6, 12, 24, 16),
    169: (6, 12, 32, 32),
    201: (6, 12, 48, 32),
    264: (6, 12, 64, 48),
}


def _stage_depths(depth: int | None, bottleneck: bool, imagenet_stem: bool) -> tuple[int, ...]:
    """Return the layers of each stage."""
    if depth is None:
        raise UserError("a network needs the argument 'depth', or 'stage_depths'")
    if imagenet_stem:
        return known_depth(depth, IMAGENET_DEPTHS)
    # The 1001 layers of the papers are 6 * 166 + 4.
    counted = 1000 if bottleneck and depth == 1001 else depth
    return (layers_in_depth(counted, 6 if bottleneck else 3, 4),) * 3


NUMBERS = r"\d+(?:_\d+)*"
BC = {"bottleneck": True, "compression": 0.5}
_LARGE = {**BC, "imagenet_stem": True}
_LARGE_DENSE = {**_LARGE, "growth_rate": 32, "stem_features": 64}
_LARGE_SPARSE = {**_LARGE, "pool": "flatten"}
_DEPTH, _K = r"(?P<depth>121|169|201|264)", rf"_k(?P<growth_rate>{NUMBERS})"
_SPARSE = ("sparse", "Sparsely Aggregated Convolutional Networks, ECCV 2018, arXiv 1801.05895")
_DENSE = ("dense", "Densely Connected Convolutional Networks, CVPR 2017, arXiv 1608.06993")

# ImageNet comes first: sparsenet121_k32 is a network of Table 4, though 121 fits CIFAR, too.
for _name, _pattern, (_topology, _paper), _fields, _registered in [
    ("densenet_imagenet", rf"densenet{_DEPTH}(?:{_K})?", _DENSE, _LARGE_DENSE, IMAGENET),
    ("sparsenet_imagenet", rf"sparsenet{_DEPTH}{_K}", _SPARSE, _LARGE_SPARSE, IMAGENET),
    ("densenet", rf"densenet(?P<depth>\d+){_K}", _DENSE, {}, {}),
    ("densenet_bc", rf"densenet_bc(?P<depth>\d+){_K}", _DENSE, BC, {}),
    ("sparsenet", rf"sparsenet(?P<depth>\d+){_K}", _SPARSE, {}, {}),
    ("sparsenet_bc", rf"sparsenet_bc(?P<depth>\d+){_K}", _SPARSE, BC, {}),
]:
    register_family(
        _name,
        partial(sparsenet, topology=_topology, **_fields),
        pattern=_pattern,
        paper=_paper,
        flops=two_for_each_multiply_add,
        **_registered,
    )
