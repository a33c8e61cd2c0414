"""ResNeXt with micro-dense blocks in the place of its blocks.

Papers: Zhu et al., "When Residual Learning Meets Dense Aggregation: Rethinking the Aggregation of
Deep Neural Networks", arXiv 2004.08796, Table 6; Xie et al., "Aggregated Residual Transformations
for Deep Neural Networks", CVPR 2017, arXiv 1611.05431.

    y_l = ReLU(y_{l-1} + F_l(y_{l-1})),  F_l a micro-dense block (`layers.micro_dense_blocks`)

The stem, the projected shortcuts, the ReLU after the sum and the head are the same as in ResNeXt
(`resnet.py`): "we only replaced each ResNeXt block with Res2Net or micro-dense block".

Table 6 prints 1.8M parameters and 0.26G FLOPs for all three networks, but neither depth, widths,
cardinality, scales nor compression. Assume blocks of 64, 128 and 256 channels, c_0 a multiple of 4,
and a stem of 16 channels, as in Micro-Dense Nets. Of up to 24 blocks in each stage, only 18 then
give the micro-dense network both numbers. With this backbone, the only ResNeXt with both numbers is
2x42d, and the only Res2NeXt with four scales is 4x8d.
"""

from typing import Annotated, Any

from aggnets_jax.errors import UserError
from aggnets_jax.layers.micro_dense_blocks import MicroDenseBlock, micro_dense_block
from aggnets_jax.layers.residual_blocks import EXPANSION, block_numbers
from aggnets_jax.models.micro_dense import STEPPED_COMPRESSION
from aggnets_jax.models.registry import register_family
from aggnets_jax.models.resnet import ResNet, residual_network


def micro_dense_resnext(
    *,
    depth: int,
    num_layers: int = 3,
    compression: float = STEPPED_COMPRESSION,
    width_rule: str = "pyramidal",
    growing: bool = True,
    final_relu: bool = True,
    **fields: Annotated[Any, residual_network],
) -> ResNet:
    """Build a `ResNet` of micro-dense blocks.

    Args:
      depth: 9n + 2, as a ResNeXt with n blocks in each of three stages.
      num_layers: dense layers in a block.
      compression: width to which a block first brings its input, as a part of the input's.
      width_rule: "pyramidal", "pyramidal_narrow" or "pyramidal_finely_grouped".
      growing: whether the layers of a block widen.
      final_relu: whether a block's last convolution is rectified.
      **fields: further arguments of `residual_network`.

    Raises:
      UserError: for numbers that fit no network.
    """
    block = micro_dense_block(
        num_layers=num_layers,
        compression=compression,
        width_rule=width_rule,
        growing=growing,
        final_relu=final_relu,
    )
    if fields.get("attention") is not None:
        raise UserError(f"micro-dense blocks have no attention, got {fields['attention']!r}")
    return residual_network(
        MicroDenseBlock,
        {"block": block, "expansion": EXPANSION},
        stage_depths=block_numbers(depth, 3, blocks=("bottleneck",)),
        inner_shortcuts=False,
        **fields,
    )


register_family(
    "micro_dense_resnext",
    micro_dense_resnext,
    pattern=r"micro_dense_resnext(?P<depth>\d+)_w(?P<width>\d+)",
    paper="When Residual Learning Meets Dense Aggregation: Rethinking the Aggregation of Deep"
    " Neural Networks, arXiv 2004.08796",
)
