"""DenseNet, SparseNet[concat] and Log-DenseNet, as torchvision writes a DenseNet."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from aggnets_jax.benchmark.torch_networks.parts import (
    Stage,
    concat,
    concatenated,
    conv,
    imagenet_stem,
    norm_relu,
)
from aggnets_jax.layers import common
from aggnets_jax.models import sparsenet as jax_networks


class DenseLayer(nn.Module):
    """BN-ReLU-conv3x3(k), or BN-ReLU-conv1x1(4k)-BN-ReLU-conv3x3(k)."""

    def __init__(self, inputs: int, k: int, *, bottleneck: bool, groups: int = 1) -> None:
        super().__init__()
        self.bottleneck = bottleneck
        self.norm1 = nn.BatchNorm2d(inputs)
        if bottleneck:
            self.conv1 = conv(inputs, 4 * k, 1)
            self.norm2 = nn.BatchNorm2d(4 * k)
            self.conv2 = conv(4 * k, k, 3, groups=groups)
        else:
            self.conv1 = conv(inputs, k, 3, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, k, height, width]."""
        x = self.conv1(norm_relu(self.norm1, x))
        return self.conv2(norm_relu(self.norm2, x)) if self.bottleneck else x


class Transition(nn.Module):
    """BN-ReLU-conv1x1-average pool 2x2."""

    def __init__(self, inputs: int, features: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = conv(inputs, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, features, height / 2, width / 2]."""
        return F.avg_pool2d(self.conv(norm_relu(self.norm, x)), 2)


class SparseNet(nn.Module):
    """Stem, stages with transitions between them, BN-ReLU, pooling, classifier."""

    def __init__(self, network: jax_networks.SparseNet, image_shape: Sequence[int]) -> None:
        """Takes the numbers of a network, and (height, width, channels) of the images."""
        super().__init__()
        *sides, channels = image_shape
        features, self.stages = network.stem_features, len(network.topologies)
        self.imagenet_stem, self.flatten = network.imagenet_stem, network.pool == "flatten"
        if self.imagenet_stem:
            self.stem_conv = conv(channels, features, 7, stride=2)
            self.stem_norm = nn.BatchNorm2d(features)
            sides = [-(-side // 4) for side in sides]
        else:
            self.stem_conv = conv(channels, features, 3)

        for i, topology in enumerate(network.topologies, 1):
            if i > 1:
                inputs, features = features, common.compressed(features, network.compression)
                self.add_module(f"transition{i - 1}", Transition(inputs, features))
            k = network.growth_rates[i - 1]
            *inputs, features = concatenated(topology.sources, features, [k] * topology.depth)
            units = [
                DenseLayer(n, k, bottleneck=network.bottleneck, groups=network.groups)
                for n in inputs
            ]
            self.add_module(f"stage{i}", Stage(topology.sources, units, concat))

        self.head_norm = nn.BatchNorm2d(features)
        if self.flatten:  # behind one more halving than there are transitions
            features *= math.prod(side // 2**self.stages for side in sides)
        self.classifier = nn.Linear(features, network.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] -> [batch, classes]."""
        if self.imagenet_stem:
            x = imagenet_stem(x, self.stem_conv, self.stem_norm)
        else:
            x = self.stem_conv(x)
        for i in range(1, self.stages + 1):
            if i > 1:
                x = getattr(self, f"transition{i - 1}")(x)
            x = getattr(self, f"stage{i}")(x)
        x = norm_relu(self.head_norm, x)
        x = F.avg_pool2d(x, 2).flatten(1) if self.flatten else x.mean((2, 3))
        return self.classifier(x)
