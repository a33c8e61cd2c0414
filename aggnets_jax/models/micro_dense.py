"""Micro-Dense Nets: PyramidNets whose blocks are small dense stages.

Paper: Zhu et al., "When Residual Learning Meets Dense Aggregation: Rethinking the Aggregation of
Deep Neural Networks", arXiv 2004.08796, Tables 1 and 2.

    h = ReLU(BN(conv1x1(BN(x), c_0)))                   # to halve: conv4x4 at stride 2
    y_0 = h,  y_l = ReLU(BN(conv3x3(ReLU(BN(conv1x1([y_0 || ... || y_{l-1}], c_l))), k_l groups)))
    F(x) = ReLU(BN(conv1x1([y_0 || ... || y_n], c_u)))                               (MDConv-n)

    x --BN--1x1-- y_0 --+------+------+--1x1--(+)--
    |              |    |      |      |        |
    |              +-- y_1 --- y_2 -- y_3      |
    +------------------------------------------+

The dense layers widen, c_l = (l + 1) c_0 (eq. 10), and have as many groups more, k_l = l + 1
(eq. 13), so that all of them have about the same number of weights. Stem, widths of the blocks
(eq. 14), shortcuts and head are those of PyramidNet.

Where the paper is unclear: Table 1 has c_l = k_l c_0 / 4, which contradicts eq. 10, and the ratio
c_0 / c_i is not given. With eqs. 10 and 13 one ratio, 0.275 in multiples of 4 channels, gives both
printed sizes; `width_rule` has the other readings, too. Figure 4 varies the layers of a block at
one size and does not say how it is kept: here by that ratio, alpha staying 64. The backbone of
Table 6 is not given either: here it has 18 blocks in each stage, of one width in a stage.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from aggnets_jax.arguments import check_number, check_whole_number, choose
from aggnets_jax.connectivity.aggregation import check_aggregation
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import (
    MAX_DEPTH,
    Topology,
    TopologyArgs,
    per_stage,
    stage_topologies,
)
from aggnets_jax.errors import UserError
from aggnets_jax.layers import common
from aggnets_jax.models.pyramidnet import (
    Block,
    PyramidNet,
    checked,
    linear_widths,
    make_shortcut_topologies,
)
from aggnets_jax.models.registry import register_family

# Channels and groups of the 3x3 convolution of layer l, from c_0.
WIDTH_RULES: dict[str, Callable[[int, int], tuple[int, int]]] = {
    # Eqs. 10 and 13.
    "pyramidal": lambda c, layer: ((layer + 1) * c, layer + 1),
    # Table 1 and eq. 13, without eq. 10; the sizes need a compression of .792 and of .868.
    "pyramidal_narrow": lambda c, layer: ((layer + 1) * c // 4, layer + 1),
    # Table 1 and eq. 10: four times the groups of eq. 13.
    "pyramidal_finely_grouped": lambda c, layer: ((layer + 1) * c, 4 * (layer + 1)),
}


class MicroDenseLayer(nn.Module):
    """The unit within a block: conv1x1-BN-ReLU-conv3x3(groups)-BN-ReLU.

    Attributes:
      features: channels of both convolutions.
      groups: groups of the second.
      norm: makes batch normalisations.
      conv: makes convolutions.
    """

    features: int
    groups: int
    norm: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> [batch, height, width, features]."""
        x = nn.relu(self.norm(name="norm1")(self.conv(self.features, 1, name="conv1")(x)))
        x = self.conv(self.features, 3, groups=self.groups, name="conv2")(x)
        return nn.relu(self.norm(name="norm2")(x))


@dataclasses.dataclass(frozen=True)
class MicroDense(Block):
    """Makes micro-dense blocks, MDConv-n with n the depth of `topology`.

    Attributes:
      topology: topology of the dense layers within a block.
      compression: c_0 / c_i, before c_0 is rounded down to a multiple of 4.
      width_rule: one of `WIDTH_RULES`.
      growing: whether the later layers have more channels and groups than the first.
      final_relu: whether a ReLU follows the last convolution.
      aggregation: within a block, "concat" or "padded_sum".
    """

    topology: Topology
    compression: float = 0.275
    width_rule: str = "pyramidal"
    growing: bool = True
    final_relu: bool = True
    aggregation: str = "concat"

    @property
    def topologies(self) -> tuple[Topology, ...]:
        """The topology within a block."""
        return (self.topology,)

    def compressed(self, channels: int) -> int:
        """Return c_0 from c_i."""
        return common.compressed(channels, self.compression, least=4) // 4 * 4

    def width_and_groups(self, compressed: int, layer: int) -> tuple[int, int]:
        """Return c_l and k_l."""
        return WIDTH_RULES[self.width_rule](compressed, layer if self.growing else 1)

    def __call__(self, features: int, **arguments: Any) -> nn.Module:
        """See `Block`."""
        return MicroDenseBlock(features, block=self, **arguments)


class MicroDenseBlock(nn.Module):
    """The unit F of a network: BN, compression, dense layers, 1x1 over all of them.

    Attributes:
      features: c_u, channels of the output.
      stride: 1, or 2 by a 4x4 convolution in the place of the first 1x1.
      block: numbers of the dense layers.
      norm: makes batch normalisations.
      conv: makes convolutions.
    """

    features: int
    stride: int
    block: MicroDense
    norm: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same divided by the stride, `features` wide."""
        compressed = self.block.compressed(x.shape[-1])
        compress = self.conv(
            compressed, 1 if self.stride == 1 else 4, stride=self.stride, name="compress_conv"
        )
        x = compress(self.norm(name="input_norm")(x))
        x = Stage(
            self.block.topology,
            unit=lambda layer, name: MicroDenseLayer(
                *self.block.width_and_groups(compressed, layer), self.norm, self.conv, name=name
            ),
            aggregation=self.block.aggregation,
            name="layers",
        )(nn.relu(self.norm(name="compress_norm")(x)))
        x = self.norm(name="output_norm")(self.conv(self.features, 1, name="output_conv")(x))
        return nn.relu(x) if self.block.final_relu else x


def mdnet(
    *,
    depth: int,
    alpha: int | None = None,
    widths: Sequence[int] | None = None,
    num_layers: int = 3,
    compression: float | None = None,
    width_rule: str = "pyramidal",
    growing: bool = True,
    final_relu: bool = True,
    topology: str = "dense",
    topology_args: Mapping[str, Any] | None = None,
    aggregation: str = "concat",
    shortcut_topology: str | Sequence[str] = "plain",
    shortcut_topology_args: TopologyArgs = None,
    **fields: Any,
) -> PyramidNet:
    """Build a Micro-Dense Net from the numbers in its name.

    Args:
      depth: blocks, a third of them in each stage.
      alpha: channels of the last block beyond the 16 of the stem.
      widths: channels of each stage, in the place of `alpha`; the stem has those of the first.
      num_layers: n, dense layers in a block.
      compression: see `MicroDense`, as the next three; default from `EQUAL_SIZE_COMPRESSIONS` and
        `STEPPED_COMPRESSION`, else 0.275.
      width_rule: one of `WIDTH_RULES`.
      growing: whether the layers of a block widen.
      final_relu: whether a block's last convolution is rectified.
      topology: pattern of the dense layers within a block.
      topology_args: arguments of the pattern.
      aggregation: aggregation within a block, "concat" or "padded_sum".
      shortcut_topology: pattern of the outputs that are added to a block, or one for each stage;
        "plain" is the identity shortcut.
      shortcut_topology_args: arguments of the pattern, or one mapping for each stage.
      **fields: further fields of `PyramidNet`; the rows with a "+" have `dynamic_regularisation`.

    Raises:
      UserError: for numbers that fit no network.
    """
    if compression is None and widths is not None:
        compression = STEPPED_COMPRESSION
    elif compression is None:
        compression = EQUAL_SIZE_COMPRESSIONS.get((num_layers, growing), 0.275)
    block = micro_dense_block(
        num_layers=num_layers,
        compression=compression,
        width_rule=width_rule,
        growing=growing,
        final_relu=final_relu,
        topology=topology,
        topology_args=topology_args,
        aggregation=aggregation,
    )
    blocks = stage_blocks(depth)
    stem_features, all_widths = _widths(alpha, widths, blocks)
    return checked(
        PyramidNet(
            shortcut_topologies=make_shortcut_topologies(
                shortcut_topology, shortcut_topology_args, blocks
            ),
            widths=all_widths,
            stem_features=stem_features,
            block=block,
            **fields,
        )
    )


def micro_dense_block(
    *,
    num_layers: int,
    topology: str = "dense",
    topology_args: Mapping[str, Any] | None = None,
    compression: float = 0.275,
    width_rule: str = "pyramidal",
    growing: bool = True,
    final_relu: bool = True,
    aggregation: str = "concat",
) -> MicroDense:
    """Make a `MicroDense` of checked arguments; see there, and `mdnet`."""
    check_whole_number("num_layers", num_layers, 1)
    check_number("compression", compression, 0.01, 4)
    choose("width_rule", WIDTH_RULES, width_rule)
    check_aggregation(
        aggregation,
        ("concat", "padded_sum"),
        "the layers of a block widen",
    )
    (within,) = stage_topologies(topology, topology_args, (num_layers,))
    return MicroDense(within, compression, width_rule, growing, final_relu, aggregation)


def stage_blocks(depth: int) -> tuple[int, int, int]:
    """Return the blocks of each stage, a third of `depth`, or raise `UserError`."""
    check_whole_number("depth", depth, 1, 3 * MAX_DEPTH)
    if depth % 3:
        raise UserError(
            f"depth {depth} fits no network of this family; allowed: 3n blocks, nearest"
            f" {3 * max(1, round(depth / 3))}"
        )
    return (depth // 3,) * 3


def _widths(
    alpha: int | None, widths: Sequence[int] | None, blocks: Sequence[int]
) -> tuple[int, tuple[int, ...]]:
    """Return the channels of the stem and of all blocks."""
    if (alpha is None) == (widths is None):
        raise UserError("a network needs one of the arguments 'alpha' and 'widths'")
    if widths is not None:
        return stepped_widths(widths, blocks)
    check_whole_number("alpha", alpha, 0)
    return 16, linear_widths(16, alpha, sum(blocks))


def stepped_widths(widths: Sequence[int], blocks: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """Return the channels of the stem and of all blocks from the channels of each stage.

    Raises:
      UserError: if there is not one width for each stage, or one is less than the one before.
    """
    widths = per_stage("widths", widths, len(blocks))
    for width in widths:
        check_whole_number("widths", width, 1)
    if sorted(widths) != [*widths]:
        raise UserError(f"widths must not fall, a shortcut can only be padded; got {widths}")
    return widths[0], tuple(w for w, n in zip(widths, blocks, strict=True) for _ in range(n))


# By (layers in a block, growing): the compression that comes nearest to the 736,874 parameters of
# three growing layers in mdnet30_a64 (Figure 4). With five layers they are 2 % less, else within
# 0.4 %.
EQUAL_SIZE_COMPRESSIONS = {
    (1, True): 0.618,  # 739,206
    (2, True): 0.384,  # 734,406
    (3, True): 0.275,
    (4, True): 0.21,  # 735,854
    (5, True): 0.16,  # 719,762
    (3, False): 0.343,  # 739,014
}
# The compression of Table 6, where stages have one width: 1,783,442 parameters.
STEPPED_COMPRESSION = 1 / 16

register_family(
    "mdnet",
    mdnet,
    pattern=r"mdnet(?P<depth>\d+)_(?:a(?P<alpha>\d+)|w(?P<widths>\d+(?:_\d+)+))"
    r"(?:_n(?P<num_layers>\d+))?(?P<growing>_fixed)?",
    parse={"growing": lambda text: False},
    paper="When Residual Learning Meets Dense Aggregation: Rethinking the Aggregation of Deep"
    " Neural Networks, arXiv 2004.08796",
)
