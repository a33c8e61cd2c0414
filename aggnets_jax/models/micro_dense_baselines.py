"""ResNeXt and Res2Net in the place of Micro-Dense Nets: the same network with other blocks.

Papers: Zhu et al., "When Residual Learning Meets Dense Aggregation: Rethinking the Aggregation of
Deep Neural Networks", arXiv 2004.08796 (Table 6); Xie et al., "Aggregated Residual Transformations
for Deep Neural Networks", CVPR 2017, arXiv 1611.05431; Gao et al., "Res2Net: A New Multi-scale
Backbone Architecture", IEEE TPAMI 2021, arXiv 1904.01169.

    x_k = ReLU(pad(x_{k-1}) + F_k(x_{k-1}))

Stem, widths, places where the resolution halves and shortcuts without parameters are those of
`mdnet54_w64_128_256`. As the blocks rectify the sum, so does the stem, and no normalisation comes
before the classifier. Table 6 prints 1.8M parameters and 0.26G FLOPs for all three and neither the
cardinality nor the scales: 16x2d is the ResNeXt of the size of the Micro-Dense Net, and among
Res2Nets of up to 16 scales only 16 scales of 2 channels have both figures.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from flax import linen as nn

from aggnets_jax.arguments import check_whole_number
from aggnets_jax.connectivity.topology import Topology, TopologyArgs, TopologyLike, make_topology
from aggnets_jax.errors import UserError
from aggnets_jax.layers.pyramid_blocks import Block
from aggnets_jax.layers.residual_blocks import EXPANSION, Bottleneck
from aggnets_jax.models.micro_dense import stage_blocks, stepped_widths
from aggnets_jax.models.pyramidnet import (
    PyramidNet,
    checked,
    make_shortcut_topologies,
)
from aggnets_jax.models.registry import register_family
from aggnets_jax.models.res2net import Res2Block


@dataclasses.dataclass(frozen=True)
class ResNeXtBlock(Block):
    """Makes bottlenecks with a grouped 3x3 convolution.

    Attributes:
      cardinality: groups.
      base_width: channels of a group in a block of 64 channels; proportional elsewhere.
    """

    cardinality: int
    base_width: int
    rectifies_sum: ClassVar[bool] = True

    def __call__(self, features: int, **arguments: Any) -> nn.Module:
        """See `Block`."""
        width, base_width = _quarter(features, self.base_width)
        return Bottleneck(width, groups=self.cardinality, base_width=base_width, **arguments)


@dataclasses.dataclass(frozen=True)
class Res2NetBlock(Block):
    """Makes bottlenecks with scales.

    Attributes:
      base_width: channels of a scale in a block of 64 channels; proportional elsewhere.
      topology: topology of the scales, one less than there are splits.
    """

    base_width: int
    topology: Topology
    rectifies_sum: ClassVar[bool] = True

    @property
    def topologies(self) -> tuple[Topology, ...]:
        """The topology within a block."""
        return (self.topology,)

    def __call__(self, features: int, **arguments: Any) -> nn.Module:
        """See `Block`."""
        width, base_width = _quarter(features, self.base_width)
        return Res2Block(
            width, topology=self.topology, groups=1, base_width=base_width, **arguments
        )


def _quarter(features: int, base_width: int) -> tuple[int, int]:
    """Return the width and base width of a bottleneck with so many output channels."""
    return features // EXPANSION, base_width * EXPANSION


def stepped_network(
    *,
    depth: int,
    widths: Sequence[int],
    base_width: int,
    cardinality: int | None = None,
    scale: int | None = None,
    topology: TopologyLike = "plain",
    topology_args: TopologyArgs = None,
    **fields: Any,
) -> PyramidNet:
    """Build a network of this file from the numbers in its name.

    Args:
      depth: blocks, a third of them in each stage.
      widths: channels of each stage, multiples of 4.
      base_width: channels of a group or scale in a block of 64 channels; proportional elsewhere.
      cardinality: groups of the 3x3 convolutions of a ResNeXt.
      scale: splits of a Res2Net, in the place of `cardinality`.
      topology: pattern of the outputs that are added to a block, or one for each stage; "plain" is
        the identity shortcut.
      topology_args: arguments of the pattern, or one mapping for each stage.
      **fields: further fields of `PyramidNet`.

    Raises:
      UserError: for numbers that fit no network.
    """
    check_whole_number("base_width", base_width, 1)
    if (cardinality is None) == (scale is None):
        raise UserError("a network needs one of the arguments 'cardinality' and 'scale'")
    if scale is None:
        check_whole_number("cardinality", cardinality, 1)
        block = ResNeXtBlock(cardinality, base_width)
    else:
        check_whole_number("scale", scale, 2)
        block = Res2NetBlock(base_width, make_topology("plain", scale - 1))
    blocks = stage_blocks(depth)
    stem_features, all_widths = stepped_widths(widths, blocks)
    if any(width % EXPANSION for width in all_widths):
        raise UserError(f"widths must be multiples of {EXPANSION}, got {tuple(widths)}")
    return checked(
        PyramidNet(
            shortcut_topologies=make_shortcut_topologies(topology, topology_args, blocks),
            widths=all_widths,
            stem_features=stem_features,
            block=block,
            **fields,
        )
    )


for _name, _pattern, _paper in [
    (
        "resnext_stepped",
        r"resnext(?P<depth>\d+)_(?P<cardinality>\d+)x(?P<base_width>\d+)d",
        "Aggregated Residual Transformations for Deep Neural Networks, CVPR 2017, arXiv 1611.05431",
    ),
    (
        "res2net_stepped",
        r"res2net(?P<depth>\d+)_(?P<base_width>\d+)w_(?P<scale>\d+)s",
        "Res2Net: A New Multi-scale Backbone Architecture, IEEE TPAMI 2021, arXiv 1904.01169",
    ),
]:
    register_family(
        _name, stepped_network, pattern=rf"{_pattern}_w(?P<widths>\d+(?:_\d+)+)", paper=_paper
    )
