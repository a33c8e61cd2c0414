r"""Res2Net and Res2NeXt: residual networks whose 3x3 convolutions are stages of their own.

Paper: Gao et al., "Res2Net: A New Multi-scale Backbone Architecture", IEEE TPAMI 2021, arXiv
1904.01169. DS-Res2Net, with dense shortcuts between blocks: Zhang et al., "ResNet or DenseNet?
Introducing Dense Shortcuts to ResNet", WACV 2021, arXiv 2010.12496, Table 7.

    z_i = K_i(x_i + z_{i-1}),  z_1 = K_1(x_1),  z_s = x_s              eq. 1

    x --conv1x1--split-- x_1 --K_1-----+-- z_1 --------concat--conv1x1
                    |                  |                 | |
                    +--- x_2 ---------(+)--K_2-- z_2 ----+ |
                    +--- x_3 --------------------- z_3 ----+

K_i is conv3x3-BN-ReLU. A block is a `Stage` under the topology "plain" whose inputs are the s
splits; other topologies inside (`scale_topology`) let K_i read other z, with "dense" all of them.

Where the paper and the code differ: eq. 1 passes x_1 on and convolves the last split, the authors'
code and timm do the reverse. In the block that opens a stage K_i reads x_i alone, and z_s is x_s
averaged over 3x3 positions at the stride of the stage, padding included. There the networks for
CIFAR convolve x_s, too, which gives the parameters of Table 4, to the digit, with 10 classes. Its
sizes with SE do not come out.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from aggnets_jax.arguments import check_whole_number
from aggnets_jax.connectivity.aggregation import Aggregation, Outputs, make_aggregation
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import Topology, TopologyLike, make_topology
from aggnets_jax.errors import UserError
from aggnets_jax.layers.pooling import avg_pool
from aggnets_jax.layers.residual_blocks import EXPANSION, block_numbers, inner_features
from aggnets_jax.models.dsnet import DENSE_SHORTCUTS, DSNET
from aggnets_jax.models.registry import IMAGENET, register_family
from aggnets_jax.models.resnet import ResNet, residual_network


class ScaleLayer(nn.Module):
    """K_i: conv3x3(features, stride)-BN-ReLU."""

    features: int
    stride: int
    groups: int
    norm: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, any] -> [batch, height / stride, width / stride, features]."""
        x = self.conv(self.features, 3, stride=self.stride, groups=self.groups, name="conv")(x)
        return nn.relu(self.norm(name="norm")(x))


def scale_wiring(pattern: Topology, splits: int) -> Topology:
    """Return the topology of the splits and the scales of a block.

    Args:
      pattern: topology of the scales K_1, K_2, ...; its y_0 is the split that K_i reads.
      splits: number of splits, at least as many as scales.

    Returns:
      A topology of the splits, its outputs 0, ..., s - 1, and the scales, which come after them;
      its output is all scales and the splits that none reads. The splits are inputs of the stage,
      so their own sources have no meaning.
    """
    scales = [
        (i, *(splits - 1 + source for source in sources if source))
        for i, sources in enumerate(pattern.sources[:-1])
    ]
    output = (*range(splits, splits + pattern.depth), *range(pattern.depth, splits))
    return Topology(pattern.name, (*[(0,)] * (splits - 1), *scales, output))


def _sums_then_all(layers: int) -> Callable[[], Aggregation]:
    """Make an aggregation that adds for the first `layers` layers, and concatenates afterwards."""

    def make() -> Aggregation:
        add, join = make_aggregation("sum"), make_aggregation("concat")

        def aggregate(
            outputs: Outputs, sources: Sequence[int], layer: int, *weights: jax.Array
        ) -> jax.Array:
            return (add if layer <= layers else join)(outputs, sources, layer, *weights)

        return aggregate

    return make


class Res2Block(nn.Module):
    """F: conv1x1(s * inner)-BN-ReLU-scales-conv1x1(4 width)-BN, and attention.

    Attributes:
      width: a quarter of the channels of the output.
      stride: stride of the scales.
      norm: makes batch normalisations.
      conv: makes convolutions.
      attention: makes the module that scales the output, or None.
      groups: groups of the 3x3 convolutions.
      base_width: inner is groups * floor(width * base_width / 64).
      topology: topology of the scales, s - 1 layers, in all blocks but those that open a stage.
      opening_pool: whether blocks that open a stage pool the last split rather than convolve it.
    """

    width: int
    stride: int
    norm: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]
    topology: Topology
    groups: int
    base_width: int
    opening_pool: bool = True
    attention: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> [batch, height / stride, width / stride, 4 width]."""
        inner = inner_features(self.width, self.base_width, self.groups)
        scale = self.topology.depth + 1
        opening = self.stride > 1 or x.shape[-1] != EXPANSION * self.width
        x = nn.relu(self.norm(name="norm1")(self.conv(scale * inner, 1, name="conv1")(x)))
        splits, topology = jnp.split(x, scale, axis=-1), self.topology
        if opening:
            separate = scale - 1 if self.opening_pool else scale
            topology = Topology("separate", ((0,),) * (separate + 1))
            if self.opening_pool:
                splits[-1] = avg_pool(
                    splits[-1], (3, 3), strides=(self.stride,) * 2, padding=((1, 1), (1, 1))
                )
        wiring = scale_wiring(topology, scale)
        x = Stage(
            wiring,
            unit=partial(ScaleLayer, inner, self.stride, self.groups, self.norm, self.conv),
            aggregation=_sums_then_all(wiring.depth),
            name="scales",
        )(*splits)
        x = self.norm(name="norm3")(self.conv(EXPANSION * self.width, 1, name="conv3")(x))
        return x if self.attention is None else self.attention(name="attention")(x)


def res2net(
    *,
    depth: int | None = None,
    stages: int = 4,
    stage_depths: Sequence[int] | None = None,
    groups: int = 1,
    base_width: int,
    scale: int,
    scale_topology: TopologyLike = "plain",
    opening_pool: bool = True,
    **fields: Annotated[Any, residual_network],
) -> ResNet:
    """Build a `ResNet` of `Res2Block`.

    Args:
      depth: depth of the ResNet with as many blocks; needed without `stage_depths`.
      stages: 4, or 3 of equal depth.
      stage_depths: blocks of each stage; default from `depth`.
      groups: groups of each 3x3 convolution (Res2NeXt).
      base_width: width of each group of a split in the first stage.
      scale: s, the number of splits.
      scale_topology: pattern of the outputs that are added to the splits within a block.
      opening_pool: whether blocks that open a stage pool the last split rather than convolve it.
      **fields: further arguments of `residual_network`.

    Raises:
      UserError: for numbers that fit no network.
    """
    check_whole_number("groups", groups, 1)
    check_whole_number("base_width", base_width, 1)
    check_whole_number("scale", scale, 2)
    if stage_depths is None:
        if depth is None:
            raise UserError("a network needs the argument 'depth', or 'stage_depths'")
        stage_depths = block_numbers(depth, stages, blocks=("bottleneck",))
    options = {
        "topology": make_topology(scale_topology, scale - 1),
        "groups": groups,
        "base_width": base_width,
        "opening_pool": opening_pool,
    }
    return residual_network(
        Res2Block, options, stage_depths=stage_depths, inner_shortcuts=False, **fields
    )


_RES2NET = "Res2Net: A New Multi-scale Backbone Architecture, IEEE TPAMI 2021, arXiv 1904.01169"
_LARGE = {"imagenet_stem": True}
_SMALL = {"stages": 3, "opening_pool": False}
_WIDTHS = r"_(?P<base_width>\d+)w_(?P<scale>\d+)s"
_GROUPS = r"_(?P<groups>\d+)x(?P<base_width>\d+)d_(?P<scale>\d+)s"
_WIDTH = r"(?:_w(?P<width>\d+))?"

for _name, _pattern, _fields, _registered in [
    ("res2net", rf"res2net(?P<depth>\d+){_WIDTHS}", _LARGE, IMAGENET),
    ("res2next", rf"res2next(?P<depth>50|101|152){_GROUPS}", _LARGE, IMAGENET),
    ("res2next_three_stages", rf"res2next(?P<depth>\d+){_GROUPS}{_WIDTH}", _SMALL, {}),
]:
    for _prefix, _attention in {"": {}, "se": {"attention": "se"}}.items():
        register_family(
            _prefix + _name,
            partial(res2net, **_fields, **_attention),
            pattern=_prefix + _pattern,
            paper=_RES2NET,
            **_registered,
        )
register_family(
    "dsres2net",
    partial(res2net, base_width=26, scale=4, **DENSE_SHORTCUTS, **_LARGE),
    pattern=rf"dsres2net(?P<depth>\d+)(?:{_WIDTHS})?",
    paper=DSNET,
    **IMAGENET,
)
