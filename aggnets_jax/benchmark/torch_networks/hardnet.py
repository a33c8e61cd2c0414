"""HarDNet: harmonic dense blocks."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from aggnets_jax.benchmark.torch_networks.parts import Stage, concat, concatenated, conv
from aggnets_jax.models import hardnet as jax_networks


class ConvNorm(nn.Module):
    """Convolution-BN-ReLU6, or depthwise without the ReLU6."""

    def __init__(
        self,
        inputs: int,
        features: int,
        kernel_size: int,
        *,
        stride: int = 1,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        groups, self.rectified = (inputs, False) if depthwise else (1, True)
        self.conv = conv(inputs, features, kernel_size, stride=stride, groups=groups)
        self.norm = nn.BatchNorm2d(features)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, features, height / stride, ...]."""
        x = self.norm(self.conv(x))
        return F.relu6(x, inplace=True) if self.rectified else x


class SeparableConvNorm(nn.Module):
    """conv1x1-BN-ReLU6, depthwise 3x3-BN."""

    def __init__(self, inputs: int, features: int) -> None:
        super().__init__()
        self.pointwise = ConvNorm(inputs, features, 1)
        self.depthwise = ConvNorm(features, features, 3, depthwise=True)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, features, height, width]."""
        return self.depthwise(self.pointwise(x))


class HarDNet(nn.Module):
    """Stem, blocks with conv1x1-BN-ReLU6 and some a halving behind them, average, classifier."""

    def __init__(self, network: jax_networks.HarDNet, image_shape: Sequence[int]) -> None:
        """Takes the numbers of a network, and (height, width, channels) of the images."""
        super().__init__()
        self.blocks = len(network.topologies)
        first, features = network.stem_features
        self.stem1 = ConvNorm(image_shape[-1], first, 3, stride=2)
        self.stem2 = ConvNorm(first, features, 1 if network.depthwise else 3)
        self.stem_down = self._halving(network, features, 3)
        for i, (topology, k) in enumerate(
            zip(network.topologies, network.growth_rates, strict=True), 1
        ):
            widths = [
                jax_networks.layer_width(n, k, network.multiplier)
                for n in range(1, topology.depth + 1)
            ]
            *inputs, joined = concatenated(topology.sources, features, widths)
            layers = [
                SeparableConvNorm(n, width) if network.depthwise else ConvNorm(n, width, 3)
                for n, width in zip(inputs, widths, strict=True)
            ]
            features = network.features[i - 1]
            self.add_module(f"stage{i}", Stage(topology.sources, layers, concat))
            self.add_module(f"transition{i}", ConvNorm(joined, features, 1))
            halves = network.downsampled[i - 1]
            halving = self._halving(network, features, 2) if halves else nn.Identity()
            self.add_module(f"down{i}", halving)
        self.classifier = nn.Linear(features, network.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] -> [batch, classes]."""
        x = self.stem_down(self.stem2(self.stem1(x)))
        for i in range(1, self.blocks + 1):
            for part in (f"stage{i}", f"transition{i}", f"down{i}"):
                x = getattr(self, part)(x)
        return self.classifier(x.mean((2, 3)))

    @staticmethod
    def _halving(network: jax_networks.HarDNet, features: int, window: int) -> nn.Module:
        if network.depthwise:
            return ConvNorm(features, features, 3, stride=2, depthwise=True)
        return nn.MaxPool2d(window, stride=2, padding=(window - 1) // 2)
