"""Pre-activation ResNet and SparseNet[+], of bottlenecks."""

from collections.abc import Sequence

from torch import Tensor, nn

from aggnets_jax.benchmark.torch_networks.parts import Stage, add, conv, norm_relu
from aggnets_jax.models import preact_resnet as jax_networks


class PreActBottleneck(nn.Module):
    """BN-ReLU-conv1x1(w)-BN-ReLU-conv3x3(w, stride)-BN-ReLU-conv1x1(4w)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, width, 1)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride=stride)
        self.norm3 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, 4 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, 4 w, height / stride, width / stride]."""
        x = self.conv1(norm_relu(self.norm1, x))
        x = self.conv2(norm_relu(self.norm2, x))
        return self.conv3(norm_relu(self.norm3, x))


class PreActResNet(nn.Module):
    """Stem conv3x3(16), three stages, BN-ReLU, average, classifier."""

    def __init__(self, network: jax_networks.PreActResNet, image_shape: Sequence[int]) -> None:
        """Takes the numbers of a network, and (height, width, channels) of the images."""
        super().__init__()
        inputs, self.stages = 16, len(network.topologies)
        self.stem_conv = conv(image_shape[-1], inputs, 3)
        for i, topology in enumerate(network.topologies, 1):
            width, stride = 16 * 2 ** (i - 1), 1 if i == 1 else 2
            units = [PreActBottleneck(inputs, width, stride)]
            units += [PreActBottleneck(4 * width, width, 1) for _ in range(topology.depth - 1)]
            projection = conv(inputs, 4 * width, 1, stride=stride)
            self.add_module(f"stage{i}", Stage(topology.sources, units, add, projection))
            inputs = 4 * width
        self.head_norm = nn.BatchNorm2d(inputs)
        self.classifier = nn.Linear(inputs, network.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] -> [batch, classes]."""
        x = self.stem_conv(x)
        for i in range(1, self.stages + 1):
            x = getattr(self, f"stage{i}")(x)
        return self.classifier(norm_relu(self.head_norm, x).mean((2, 3)))
