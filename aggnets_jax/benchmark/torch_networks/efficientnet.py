"""EfficientNet-B0, also with micro-dense blocks in place of some of its blocks."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from aggnets_jax.benchmark.torch_networks.micro_dense import micro_dense_block
from aggnets_jax.benchmark.torch_networks.parts import Mean, PaddedSequence, conv, sequence
from aggnets_jax.benchmark.torch_networks.shortcuts import ShortcutStage
from aggnets_jax.models import efficientnet as jax_networks


class SqueezeExcite(nn.Module):
    """Channels scaled by sigmoid(1x1(swish(1x1(mean))))."""

    def __init__(self, features: int, reduced: int) -> None:
        super().__init__()
        self.reduce = conv(features, reduced, 1, bias=True)
        self.expand = conv(reduced, features, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, features, height, width] -> the same shape."""
        gate = F.silu(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * self.expand(gate).sigmoid()


def mb_conv(inputs: int, features: int, stride: int, expansion: int, kernel_size: int) -> nn.Module:
    """1x1-BN-swish, kxk depthwise-BN-swish, squeeze-excite, 1x1-BN."""
    width, layers = expansion * inputs, {}
    if expansion > 1:
        layers["expand_conv"] = conv(inputs, width, 1)
        layers["expand_norm"] = nn.BatchNorm2d(width)
        layers["expand_swish"] = nn.SiLU()
    return sequence(
        **layers,
        depthwise_conv=conv(width, width, kernel_size, stride=stride, groups=width),
        depthwise_norm=nn.BatchNorm2d(width),
        depthwise_swish=nn.SiLU(),
        squeeze_excite=SqueezeExcite(width, max(1, inputs // 4)),
        project_conv=conv(width, features, 1),
        project_norm=nn.BatchNorm2d(features),
    )


def efficientnet(network: jax_networks.EfficientNet, image_shape: Sequence[int]) -> nn.Module:
    """Stem conv3x3/2(32), seven stages, conv1x1(1280), average, classifier."""
    features, first, openings = 32, 1, []
    layers = {
        "stem_conv": conv(image_shape[-1], features, 3, stride=2),
        "stem_norm": nn.BatchNorm2d(features),
        "stem_swish": nn.SiLU(),
    }

    def block(number: int, inputs: int, stride: int) -> nn.Module:
        if number in network.replaced:
            return micro_dense_block(inputs, row.features, stride, network.replacement)
        return mb_conv(inputs, row.features, stride, row.expansion, row.kernel_size)

    for i, (row, topology) in enumerate(
        zip(jax_networks.B0_STAGES, network.shortcut_topologies, strict=True), 1
    ):
        if first in network.replaced:
            openings.append(f"stage{i}_opening")
        layers[f"stage{i}_opening"] = block(first, features, row.stride)
        features = row.features
        blocks = [block(first + n, features, 1) for n in range(1, topology.depth + 1)]
        layers[f"stage{i}"] = ShortcutStage(topology.sources, blocks)
        first += row.blocks
    layers |= {
        "head_conv": conv(features, 1280, 1),
        "head_norm": nn.BatchNorm2d(1280),
        "head_swish": nn.SiLU(),
        "mean": Mean(),
        "classifier": nn.Linear(1280, network.num_classes),
    }
    return PaddedSequence(layers, openings)
