"""Micro-dense blocks (MDConv-n): small dense stages as the units of a residual network.

Paper: Zhu et al., "When Residual Learning Meets Dense Aggregation: Rethinking the Aggregation of
Deep Neural Networks", arXiv 2004.08796, Table 1.

    h = ReLU(BN(conv1x1(BN(x), c_0)))                   # to halve: conv4x4 at stride 2
    y_0 = h,  y_l = ReLU(BN(conv3x3(ReLU(BN(conv1x1([y_0 || ... || y_{l-1}], c_l))), k_l groups)))
    F(x) = ReLU(BN(conv1x1([y_0 || ... || y_n], c_u)))                               (MDConv-n)

    x --BN--1x1-- y_0 --+------+------+--1x1--(+)--
    |              |    |      |      |        |
    |              +-- y_1 --- y_2 -- y_3      |
    +------------------------------------------+

The dense layers become wider, c_l = (l + 1) c_0 (eq. 10), and have more groups, k_l = l + 1 (eq.
13), so all of them have about the same number of weights.

Where the paper is unclear: Table 1 has c_l = k_l c_0 / 4, which contradicts eq. 10, and the ratio
c_0 / c_i is missing. With eqs. 10 and 13, the ratio 0.275, in multiples of 4 channels, gives both
printed sizes. `width_rule` has the other readings, too.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn

from aggnets_jax.arguments import check_number, check_whole_number, choose
from aggnets_jax.connectivity.aggregation import check_aggregation
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import Topology, TopologyLike, stage_topologies
from aggnets_jax.layers import common
from aggnets_jax.layers.pooling import check_even
from aggnets_jax.layers.pyramid_blocks import Block, Branch

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
    """The unit within a block: conv1x1-BN-ReLU-conv3x3(groups)-BN-ReLU, both to `features`."""

    features: int
    groups: int
    norm: common.Norm
    conv: common.Conv

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
      width_rule: "pyramidal", "pyramidal_narrow" or "pyramidal_finely_grouped".
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


class MicroDenseBlock(Branch):
    """The unit F of a network: BN, compression, dense layers, 1x1 over all of them.

    A stride of 2 is a 4x4 convolution in the place of the first 1x1, for maps with even sides. The
    output has `expansion`
    times as many channels as `features` says.
    """

    block: MicroDense
    expansion: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> [batch, height / stride, width / stride, any]."""
        if self.stride == 2:
            check_even(x)
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
        features = self.expansion * self.features
        x = self.norm(name="output_norm")(self.conv(features, 1, name="output_conv")(x))
        return nn.relu(x) if self.block.final_relu else x


def micro_dense_block(
    *,
    num_layers: int,
    topology: TopologyLike = "dense",
    topology_args: Mapping[str, Any] | None = None,
    compression: float = 0.275,
    width_rule: str = "pyramidal",
    growing: bool = True,
    final_relu: bool = True,
    aggregation: str = "concat",
) -> MicroDense:
    """Make a `MicroDense` of checked arguments.

    Args:
      num_layers: dense layers in a block.
      topology: pattern of the dense layers within a block.
      topology_args: arguments of the pattern.
      compression: c_0 / c_i, before c_0 is rounded down to a multiple of 4.
      width_rule: "pyramidal", "pyramidal_narrow" or "pyramidal_finely_grouped".
      growing: whether the layers of a block widen.
      final_relu: whether a block's last convolution is rectified.
      aggregation: aggregation within a block, "concat" or "padded_sum".

    Raises:
      UserError: for numbers that fit no block, and names that there are not.
    """
    check_whole_number("num_layers", num_layers, 1)
    check_number("compression", compression, 0.01, 4)
    choose("width_rule", WIDTH_RULES, width_rule)
    check_aggregation(aggregation, ("concat", "padded_sum"), "the layers of a block widen")
    (within,) = stage_topologies(topology, topology_args, (num_layers,))
    return MicroDense(within, compression, width_rule, growing, final_relu, aggregation)
