"""EfficientNet-B0, and the one that has micro-dense blocks among its own."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from aggnets_jax.benchmark.torch_networks.micro_dense import MicroDenseBlock
from aggnets_jax.benchmark.torch_networks.parts import conv, padded_add
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


class MBConv(nn.Module):
    """1x1-BN-swish, kxk depthwise-BN-swish, squeeze-excite, 1x1-BN."""

    def __init__(
        self, inputs: int, features: int, stride: int, expansion: int, kernel_size: int
    ) -> None:
        super().__init__()
        width = expansion * inputs
        if expansion > 1:
            self.expand_conv = conv(inputs, width, 1)
            self.expand_norm = nn.BatchNorm2d(width)
        self.expands = expansion > 1
        self.depthwise_conv = conv(width, width, kernel_size, stride=stride, groups=width)
        self.depthwise_norm = nn.BatchNorm2d(width)
        self.squeeze_excite = SqueezeExcite(width, max(1, inputs // 4))
        self.project_conv = conv(width, features, 1)
        self.project_norm = nn.BatchNorm2d(features)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, features, height / stride, ...]."""
        if self.expands:
            x = F.silu(self.expand_norm(self.expand_conv(x)))
        x = F.silu(self.depthwise_norm(self.depthwise_conv(x)))
        return self.project_norm(self.project_conv(self.squeeze_excite(x)))


class EfficientNet(nn.Module):
    """Stem conv3x3/2(32), seven stages, conv1x1(1280), average, classifier."""

    def __init__(self, network: jax_networks.EfficientNet, image_shape: Sequence[int]) -> None:
        """Takes the numbers of a network, and (height, width, channels) of the images."""
        super().__init__()
        self.stem_conv = conv(image_shape[-1], 32, 3, stride=2)
        self.stem_norm = nn.BatchNorm2d(32)
        features, first = 32, 1
        # Of the blocks that open stages, those with a shortcut have its stride, the others 0.
        self.openings = []

        def block(number: int, inputs: int, stride: int) -> nn.Module:
            if number in network.replaced:
                return MicroDenseBlock(inputs, row.features, stride, network.replacement)
            return MBConv(inputs, row.features, stride, row.expansion, row.kernel_size)

        for i, (row, topology) in enumerate(
            zip(jax_networks.B0_STAGES, network.shortcut_topologies, strict=True), 1
        ):
            self.openings.append(row.stride if first in network.replaced else 0)
            self.add_module(f"stage{i}_opening", block(first, features, row.stride))
            features = row.features
            blocks = [block(first + n, features, 1) for n in range(1, topology.depth + 1)]
            self.add_module(f"stage{i}", ShortcutStage(topology.sources, blocks))
            first += row.blocks
        self.head_conv = conv(features, 1280, 1)
        self.head_norm = nn.BatchNorm2d(1280)
        self.classifier = nn.Linear(1280, network.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] -> [batch, classes]."""
        x = F.silu(self.stem_norm(self.stem_conv(x)))
        for i, stride in enumerate(self.openings, 1):
            residual = getattr(self, f"stage{i}_opening")(x)
            shortcut = F.avg_pool2d(x, 2) if stride == 2 else x
            x = padded_add([shortcut, residual]) if stride else residual
            x = getattr(self, f"stage{i}")(x)
        x = F.silu(self.head_norm(self.head_conv(x)))
        return self.classifier(x.mean((2, 3)))
