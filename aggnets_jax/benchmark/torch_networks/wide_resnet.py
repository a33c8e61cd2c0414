"""Wide ResNet of pre-activation blocks, and DSWRN."""

from collections.abc import Sequence

from torch import Tensor, nn

from aggnets_jax.benchmark.torch_networks.parts import conv, norm_relu
from aggnets_jax.benchmark.torch_networks.shortcuts import ShortcutStage
from aggnets_jax.models import wide_resnet as jax_networks


class WideBlock(nn.Module):
    """BN-ReLU-conv3x3(width, stride)-BN-ReLU-conv3x3(width); one that opens adds a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, *, opening: bool = False) -> None:
        super().__init__()
        self.opening = opening
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, width, 3, stride=stride)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3)
        projected = opening and (stride > 1 or inputs != width)
        self.projection = conv(inputs, width, 1, stride=stride) if projected else None

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, width, height / stride, ...]."""
        read = norm_relu(self.norm1, x)
        residual = self.conv2(norm_relu(self.norm2, self.conv1(read)))
        if not self.opening:
            return residual
        return residual + (x if self.projection is None else self.projection(read))


class WideResNet(nn.Module):
    """Stem conv3x3(16), three stages, BN-ReLU, average, classifier."""

    def __init__(self, network: jax_networks.WideResNet, image_shape: Sequence[int]) -> None:
        """Takes the numbers of a network, and (height, width, channels) of the images."""
        super().__init__()
        features, self.stages = 16, len(network.topologies)
        self.stem_conv = conv(image_shape[-1], features, 3)
        for i, topology in enumerate(network.topologies, 1):
            width, stride = 16 * network.widening * 2 ** (i - 1), 1 if i == 1 else 2
            opening = WideBlock(features, width, stride, opening=True)
            self.add_module(f"stage{i}_opening", opening)
            blocks = [WideBlock(width, width, 1) for _ in range(topology.depth)]
            stage = ShortcutStage(
                topology.sources, blocks, shortcuts=network.shortcuts, features=width
            )
            self.add_module(f"stage{i}", stage)
            features = width
        self.head_norm = nn.BatchNorm2d(features)
        self.classifier = nn.Linear(features, network.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] -> [batch, classes]."""
        x = self.stem_conv(x)
        for i in range(1, self.stages + 1):
            x = getattr(self, f"stage{i}")(getattr(self, f"stage{i}_opening")(x))
        return self.classifier(norm_relu(self.head_norm, x).mean((2, 3)))
