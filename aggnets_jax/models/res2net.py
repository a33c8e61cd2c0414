r"""Res2Net and Res2NeXt: residual networks whose 3x3 convolutions are stages of their own.

Paper: Gao et al., "Res2Net: A New Multi-scale Backbone Architecture", IEEE TPAMI 2021, arXiv
1904.01169. DS-Res2Net, the same with dense shortcuts between blocks, is of Zhang et al., "ResNet or
DenseNet? Introducing Dense Shortcuts to ResNet", WACV 2021, arXiv 2010.12496, Table 7.

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
CIFAR convolve x_s, too: only so do the parameters of Table 4 come out, to the digit, with 10
classes. Its sizes with SE do not come out.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from aggnets_jax.arguments import check_whole_number
from aggnets_jax.connectivity.aggregation import Aggregation, Outputs, make_aggregation
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import Topology, TopologyArgs, make_topology
from aggnets_jax.errors import UserError
from aggnets_jax.layers.residual_blocks import EXPANSION, block_numbers, inner_features
from aggnets_jax.layers.shortcuts import Shortcuts
from aggnets_jax.models.dsnet import DENSE_SHORTCUTS, DSNET
from aggnets_jax.models.registry import Printed, register_family
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
    """Who reads whom among the splits and the scales of a block.

    Args:
      pattern: of the scales K_1, K_2, ...; y_0 of it stands for the split that K_i reads.
      splits: how many there are, at least as many as scales.

    Returns:
      A topology of the splits, its outputs 0, ..., s - 1, and the scales, which come after them;
      its output is all scales and the splits that none reads. The splits are inputs of the stage,
      so that what they are said to read is of no account.
    """
    scales = [
        (i, *(splits - 1 + source for source in sources if source))
        for i, sources in enumerate(pattern.sources[:-1])
    ]
    output = (*range(splits, splits + pattern.depth), *range(pattern.depth, splits))
    return Topology(pattern.name, (*[(0,)] * (splits - 1), *scales, output))


def _sums_then_all(layers: int) -> Callable[[], Aggregation]:
    """What the first `layers` layers read is added, the rest concatenated."""

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
      stride: of the scales.
      norm: makes batch normalisations.
      conv: makes convolutions.
      attention: makes what scales the output, if given.
      groups: of the 3x3 convolutions.
      base_width: inner is groups * floor(width * base_width / 64).
      topology: of the scales, s - 1 layers, in all blocks but those that open a stage.
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
                splits[-1] = nn.avg_pool(
                    splits[-1], (3, 3), strides=(self.stride,) * 2, padding=((1, 1), (1, 1))
                )
        wiring = scale_wiring(topology, scale)
        layer = partial(ScaleLayer, inner, self.stride, self.groups, self.norm, self.conv)
        x = Stage(
            wiring,
            unit=lambda number, name: layer(name=name),
            aggregation=_sums_then_all(wiring.depth),
            name="scales",
        )(*splits)
        x = self.norm(name="norm3")(self.conv(EXPANSION * self.width, 1, name="conv3")(x))
        return x if self.attention is None else self.attention(name="attention")(x)


def res2net(
    *,
    num_classes: int,
    depth: int | None = None,
    stages: int = 4,
    stage_depths: Sequence[int] | None = None,
    width: int = 100,
    groups: int = 1,
    base_width: int,
    scale: int,
    scale_topology: str = "plain",
    opening_pool: bool = True,
    imagenet_stem: bool,
    topology: str | Sequence[str] = "plain",
    topology_args: TopologyArgs = None,
    aggregation: str = "sum",
    shortcut_norm: str = "group",
    shortcut_weights: bool = True,
    shortcut_sources: str = "outputs",
    attention: str | None = None,
    stochastic_depth: float = 0.0,
    dtype: DTypeLike = jnp.float32,
) -> ResNet:
    """Builds a network of this file.

    Args:
      num_classes: size of the logits.
      depth: of the ResNet with as many blocks; needed without `stage_depths`.
      stages: see `resnet.resnet`, as all that is not said here.
      stage_depths: blocks of each stage.
      width: in percent.
      groups: of each 3x3 convolution (Res2NeXt).
      base_width: width of each group of a split in the first stage.
      scale: s, the number of splits.
      scale_topology: whose outputs are added to the splits within a block.
      opening_pool: see `Res2Block`.
      imagenet_stem: whether for large images.
      topology: of the shortcuts between blocks.
      topology_args: of its pattern.
      aggregation: of these shortcuts.
      shortcut_norm: N of them.
      shortcut_weights: whether their weights are learnt.
      shortcut_sources: where they start.
      attention: "se" or "cbam".
      stochastic_depth: of blocks.
      dtype: in which to compute.

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
        Res2Block,
        options,
        num_classes=num_classes,
        stage_depths=stage_depths,
        width=width,
        topology=topology,
        topology_args=topology_args,
        shortcuts=Shortcuts(aggregation, shortcut_norm, shortcut_weights, shortcut_sources),
        attention=attention,
        imagenet_stem=imagenet_stem,
        stochastic_depth=stochastic_depth,
        dtype=dtype,
    )


_RES2NET = "Res2Net: A New Multi-scale Backbone Architecture, IEEE TPAMI 2021, arXiv 1904.01169"
_IMAGENET = {"input_shape": (224, 224, 3), "num_classes": 1000}
_LARGE = {"imagenet_stem": True}
_SMALL = {"imagenet_stem": False, "stages": 3, "opening_pool": False}
_WIDTHS = r"(?P<base_width>\d+)w_(?P<scale>\d+)s"
_GROUPS = r"(?P<groups>\d+)x(?P<base_width>\d+)d_(?P<scale>\d+)s"

# Sizes of the ImageNet networks are those of the authors' released models.
_TEN = "the size with 10 classes"
_NO_SE = "sizes with SE do not come out"
_PRINTED = {
    name: Printed(table, params, errors, note=note)
    for name, table, params, errors, note in [
        ("res2net50_48w_2s", "Table 3", "25.29M", {"imagenet2012": 22.68}, None),
        ("res2net50_26w_4s", "Table 3", "25.70M", {"imagenet2012": 22.01}, None),
        ("res2net50_14w_8s", "Table 3", "25.06M", {"imagenet2012": 21.86}, None),
        ("res2net50_26w_6s", "Table 3", "37.05M", {"imagenet2012": 21.42}, None),
        ("res2net50_26w_8s", "Table 3", "48.40M", {"imagenet2012": 20.80}, None),
        ("res2net101_26w_4s", "Table 2", "45.21M", {"imagenet2012": 20.81}, None),
        ("res2next50_8x4d_4s", "Table 1", "24.67M", {"imagenet2012": 21.76}, None),
        ("seres2net50_26w_4s", "Table 1", None, {"imagenet2012": 21.56}, None),
        ("res2next29_6x24d_4s", "Table 4", "24.3M", {"cifar100": 16.98}, _TEN),
        ("res2next29_8x25d_4s", "Table 4", "33.8M", {"cifar100": 16.93}, _TEN),
        ("res2next29_6x24d_6s", "Table 4", "36.7M", {"cifar100": 16.79}, _TEN),
        ("seres2next29_6x24d_4s", "Table 4", "26.0M", {"cifar100": 16.68}, _NO_SE),
        ("seres2next29_8x25d_4s", "Table 4", "34.0M", {"cifar100": 16.64}, _NO_SE),
        ("seres2next29_6x24d_6s", "Table 4", "36.9M", {"cifar100": 16.56}, _NO_SE),
        ("dsres2net50", "Table 7", "25.6M", {"imagenet2012": 21.61}, "25.7M as Res2Net has them"),
    ]
}

for _prefix, _attention in {"": None, "se": "se"}.items():
    register_family(
        f"{_prefix}res2net",
        partial(res2net, attention=_attention, **_LARGE),
        pattern=rf"{_prefix}res2net(?P<depth>\d+)_{_WIDTHS}",
        paper=_RES2NET,
        printed=_PRINTED,
        **_IMAGENET,
    )
    register_family(
        f"{_prefix}res2next",
        partial(res2net, attention=_attention, **_LARGE),
        pattern=rf"{_prefix}res2next(?P<depth>50|101|152)_{_GROUPS}",
        paper=_RES2NET,
        printed=_PRINTED,
        **_IMAGENET,
    )
    register_family(
        f"{_prefix}res2next_three_stages",
        partial(res2net, attention=_attention, **_SMALL),
        pattern=rf"{_prefix}res2next(?P<depth>\d+)_{_GROUPS}",
        paper=_RES2NET,
        printed=_PRINTED,
    )
register_family(
    "dsres2net",
    partial(res2net, base_width=26, scale=4, **DENSE_SHORTCUTS, **_LARGE),
    pattern=rf"dsres2net(?P<depth>\d+)(?:_{_WIDTHS})?",
    paper=DSNET,
    printed=_PRINTED,
    **_IMAGENET,
)
