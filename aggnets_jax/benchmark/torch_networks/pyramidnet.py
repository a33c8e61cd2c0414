"""PyramidNet, also with the blocks of Micro-Dense Nets, ResNeXt and Res2Net."""

from collections.abc import Sequence

from torch import nn

from aggnets_jax.benchmark.torch_networks.micro_dense import micro_dense_block
from aggnets_jax.benchmark.torch_networks.parts import (
    Mean,
    NormReLU,
    PaddedSequence,
    conv,
    imagenet_stem,
    padded_add,
    sequence,
)
from aggnets_jax.benchmark.torch_networks.residual_blocks import Bottleneck, Res2Block
from aggnets_jax.benchmark.torch_networks.shortcuts import ShortcutStage
from aggnets_jax.layers.micro_dense_blocks import MicroDense
from aggnets_jax.layers.residual_blocks import EXPANSION
from aggnets_jax.models import micro_dense_baselines
from aggnets_jax.models import pyramidnet as jax_networks


def pyramid_block(*convs: nn.Conv2d) -> nn.Module:
    """BN-conv-BN-ReLU-conv-...-BN: no ReLU before the first convolution."""
    layers = {}
    for i, each in enumerate(convs, 1):
        norm = nn.BatchNorm2d if i == 1 else NormReLU
        layers |= {f"norm{i}": norm(each.in_channels), f"conv{i}": each}
    last = nn.BatchNorm2d(convs[-1].out_channels)
    return sequence(**layers, **{f"norm{len(convs) + 1}": last})


def make_block(block: jax_networks.Block, inputs: int, features: int, stride: int) -> nn.Module:
    """Return a block of the network with the given channels."""
    if isinstance(block, jax_networks.PyramidBlock):
        if not block.bottleneck:
            return pyramid_block(
                conv(inputs, features, 3, stride=stride), conv(features, features, 3)
            )
        width = features // 4
        return pyramid_block(
            conv(inputs, width, 1), conv(width, width, 3, stride=stride), conv(width, features, 1)
        )
    if isinstance(block, MicroDense):
        return micro_dense_block(inputs, features, stride, block)
    # A bottleneck's widths are a quarter of its output channels.
    width, base_width = features // EXPANSION, block.base_width * EXPANSION
    if isinstance(block, micro_dense_baselines.ResNeXtBlock):
        return Bottleneck(inputs, width, stride, groups=block.cardinality, base_width=base_width)
    return Res2Block(inputs, width, stride, topology=block.topology, base_width=base_width)


def pyramidnet(network: jax_networks.PyramidNet, image_shape: Sequence[int]) -> nn.Module:
    """Stem, stages of ever wider blocks with padded shortcuts, average, classifier."""
    channels, features = image_shape[-1], [network.stem_features, *network.widths]
    rectified, openings, block = network.block.rectifies_sum, [], 0
    layers = {
        "stem_conv": conv(channels, features[0], 3),
        "stem_norm": (NormReLU if rectified else nn.BatchNorm2d)(features[0]),
    }
    if network.imagenet_stem:
        layers = imagenet_stem(channels, features[0])

    def next_block(stride: int) -> nn.Module:
        nonlocal block
        block += 1
        return make_block(network.block, features[block - 1], features[block], stride)

    for i, topology in enumerate(network.shortcut_topologies, 1):
        if i > 1:
            openings.append(f"stage{i}_opening")
            layers[f"stage{i}_opening"] = next_block(2)
            if rectified:
                layers[f"stage{i}_relu"] = nn.ReLU(inplace=True)
        blocks = [next_block(1) for _ in range(topology.depth)]
        layers[f"stage{i}"] = ShortcutStage(
            topology.sources, blocks, rectified=rectified, aggregate=padded_add
        )
    if not rectified:
        layers["head_norm"] = NormReLU(features[-1])
    layers |= {"mean": Mean(), "classifier": nn.Linear(features[-1], network.num_classes)}
    return PaddedSequence(layers, openings)
