"""The blocks of Micro-Dense Nets."""

from torch import nn

from aggnets_jax.benchmark.torch_networks.parts import (
    NormReLU,
    Stage,
    concat,
    concatenated,
    conv,
    sequence,
)
from aggnets_jax.errors import UserError
from aggnets_jax.layers.micro_dense_blocks import MicroDense


def layer(inputs: int, features: int, groups: int) -> nn.Module:
    """conv1x1-BN-ReLU-conv3x3(groups)-BN-ReLU."""
    return sequence(
        conv1=conv(inputs, features, 1),
        norm1=NormReLU(features),
        conv2=conv(features, features, 3, groups=groups),
        norm2=NormReLU(features),
    )


def micro_dense_block(inputs: int, features: int, stride: int, block: MicroDense) -> nn.Module:
    """BN-conv1x1 (4x4 at stride 2)-BN-ReLU, dense layers, conv1x1 on all of them-BN(-ReLU).

    Raises:
      UserError: if the block has another aggregation than concatenation.
    """
    if block.aggregation != "concat":
        raise UserError(
            "micro-dense blocks in PyTorch have the aggregation 'concat' only, got"
            f" {block.aggregation!r}"
        )
    compressed, topology = block.compressed(inputs), block.topology
    inside = [block.width_and_groups(compressed, n) for n in range(1, topology.depth + 1)]
    *read, joined = concatenated(topology.sources, compressed, [width for width, _ in inside])
    layers = [layer(n, *each) for n, each in zip(read, inside, strict=True)]
    return sequence(
        input_norm=nn.BatchNorm2d(inputs),
        compress_conv=conv(inputs, compressed, 1 if stride == 1 else 4, stride=stride),
        compress_norm=NormReLU(compressed),
        layers=Stage(topology.sources, layers, concat),
        output_conv=conv(joined, features, 1),
        output_norm=(NormReLU if block.final_relu else nn.BatchNorm2d)(features),
    )
