"""Wide ResNet of pre-activation blocks, and DSWRN."""

from collections.abc import Sequence

from torch import Tensor, nn

from aggnets_jax.benchmark.torch_networks.parts import Mean, NormReLU, conv, pre_activated, sequence
from aggnets_jax.benchmark.torch_networks.shortcuts import ShortcutStage
from aggnets_jax.models import wide_resnet as jax_networks


class OpeningBlock(nn.Module):
    """BN-ReLU-conv3x3(width, stride)-BN-ReLU-conv3x3(width), and the shortcut of the first block.

    Where the shape changes, the shortcut is a 1x1 convolution of the first BN-ReLU.
    """

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1 = NormReLU(inputs)
        self.conv1 = conv(inputs, width, 3, stride=stride)
        self.norm2 = NormReLU(width)
        self.conv2 = conv(width, width, 3)
        projected = stride > 1 or inputs != width
        self.projection = conv(inputs, width, 1, stride=stride) if projected else None

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, width, height / stride, ...]."""
        activated = self.norm1(x)
        residual = self.conv2(self.norm2(self.conv1(activated)))
        return residual + (x if self.projection is None else self.projection(activated))


def wide_resnet(network: jax_networks.WideResNet, image_shape: Sequence[int]) -> nn.Module:
    """Stem conv3x3(16), three stages, BN-ReLU, average, classifier."""
    features = 16
    layers = {"stem_conv": conv(image_shape[-1], features, 3)}
    for i, topology in enumerate(network.topologies, 1):
        width, stride = 16 * network.widening * 2 ** (i - 1), 1 if i == 1 else 2
        layers[f"stage{i}_opening"] = OpeningBlock(features, width, stride)
        blocks = [
            pre_activated(conv(width, width, 3), conv(width, width, 3))
            for _ in range(topology.depth)
        ]
        layers[f"stage{i}"] = ShortcutStage(
            topology.sources, blocks, shortcuts=network.shortcuts, features=width
        )
        features = width
    classifier = nn.Linear(features, network.num_classes)
    return sequence(**layers, head_norm=NormReLU(features), mean=Mean(), classifier=classifier)
