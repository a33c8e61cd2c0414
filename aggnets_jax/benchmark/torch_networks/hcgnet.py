"""HCGNet: hybrid blocks of gated modules."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aggnets_jax.benchmark.torch_networks.parts import Stage, concat, concatenated, conv, norm_relu
from aggnets_jax.layers import common
from aggnets_jax.models import hcgnet as jax_networks


class AttentionPool(nn.Module):
    """The mean over positions, weighted by the softmax of one score for each."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.scores = conv(features, 1, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, features, height, width] -> [batch, features, 1, 1]."""
        weights = self.scores(x).flatten(2).softmax(-1)
        return (x.flatten(2) @ weights.transpose(1, 2)).unsqueeze(-1)


class ForgetGate(nn.Module):
    """sigmoid(W_2 tanh(BN(W_1 P(X))))."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.pool = AttentionPool(features)
        self.linear1 = conv(features, hidden, 1, bias=True)
        self.norm = nn.BatchNorm2d(hidden)
        self.linear2 = conv(hidden, features, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, features, height, width] -> [batch, features, 1, 1]."""
        return self.linear2(torch.tanh(self.norm(self.linear1(self.pool(x))))).sigmoid()


class UpdateGate(nn.Module):
    """u P(A) + (1 - u) P(B), u of two heads on both."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.pool_3x3 = AttentionPool(features)
        self.pool_5x5 = AttentionPool(features)
        self.linear = conv(2 * features, hidden, 1, bias=True)
        self.norm = nn.BatchNorm2d(hidden)
        self.head_3x3 = conv(hidden, features, 1, bias=True)
        self.head_5x5 = conv(hidden, features, 1, bias=True)

    def forward(self, x_3x3: Tensor, x_5x5: Tensor) -> Tensor:
        """[batch, features, height, width] each -> [batch, features, 1, 1]."""
        z_3x3, z_5x5 = self.pool_3x3(x_3x3), self.pool_5x5(x_5x5)
        h = torch.tanh(self.norm(self.linear(torch.cat([z_3x3, z_5x5], dim=1))))
        # The softmax of two is a sigmoid of their difference.
        u = torch.sigmoid(self.head_3x3(h) - self.head_5x5(h))
        return torch.lerp(z_5x5, z_3x3, u)


class SMG(nn.Module):
    """Squeeze cell, a plain and a dilated depthwise convolution of its map, gates."""

    def __init__(
        self, inputs: int, features: int, width: int, *, groups: int, stride: int, reduction: int
    ) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, width, 1)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, features, 3, stride=stride, groups=groups)
        self.norm_3x3 = nn.BatchNorm2d(features)
        self.conv_3x3 = conv(features, features, 3, groups=features)
        self.norm_5x5 = nn.BatchNorm2d(features)
        self.conv_5x5 = conv(features, features, 3, groups=features, dilation=2)
        self.forget_gate = ForgetGate(features, features // reduction)
        self.update_gate = UpdateGate(features, 2 * features // reduction)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, features, height / stride, ...]."""
        x = self.conv1(norm_relu(self.norm1, x))
        x = self.conv2(norm_relu(self.norm2, x))
        x_3x3 = self.conv_3x3(norm_relu(self.norm_3x3, x))
        x_5x5 = self.conv_5x5(norm_relu(self.norm_5x5, x))
        return torch.addcmul(self.update_gate(x_3x3, x_5x5), x, self.forget_gate(x))


class HCGNet(nn.Module):
    """Stem, hybrid blocks with transitions between them, BN-ReLU, average, classifier."""

    def __init__(self, network: jax_networks.HCGNet, image_shape: Sequence[int]) -> None:
        """Takes the numbers of a network, and (height, width, channels) of the images."""
        super().__init__()
        features, self.stages = network.stem_features, len(network.topologies)
        self.imagenet_stem = network.imagenet_stem
        if self.imagenet_stem:
            widths = (image_shape[-1], features // 2, features // 2, features)
            for i in (1, 2, 3):
                stem = conv(widths[i - 1], widths[i], 3, stride=2 if i == 1 else 1)
                self.add_module(f"stem_conv{i}", stem)
                self.add_module(f"stem_norm{i}", nn.BatchNorm2d(widths[i]))
        else:
            self.stem_conv = conv(image_shape[-1], features, 3)

        for i, topology in enumerate(network.topologies, 1):
            if i > 1:
                less = common.compressed(features, network.compression)
                width = features - (features - less) // 2
                transition = SMG(features, less, width, groups=1, stride=2, reduction=4)
                self.add_module(f"transition{i - 1}", transition)
                features = less
            k = network.growth_rates[i - 1]
            *inputs, features = concatenated(topology.sources, features, [k] * topology.depth)
            width = jax_networks.MULTIPLIER * k
            units = [SMG(n, k, width, groups=network.groups, stride=1, reduction=2) for n in inputs]
            self.add_module(f"stage{i}", Stage(topology.sources, units, concat))
        self.head_norm = nn.BatchNorm2d(features)
        self.classifier = nn.Linear(features, network.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] -> [batch, classes]."""
        x = self._stem(x)
        for i in range(1, self.stages + 1):
            if i > 1:
                x = getattr(self, f"transition{i - 1}")(x)
            x = getattr(self, f"stage{i}")(x)
        return self.classifier(norm_relu(self.head_norm, x).mean((2, 3)))

    def _stem(self, x: Tensor) -> Tensor:
        if not self.imagenet_stem:
            return self.stem_conv(x)
        for i in (1, 2, 3):
            x = norm_relu(getattr(self, f"stem_norm{i}"), getattr(self, f"stem_conv{i}")(x))
        return F.max_pool2d(x, 3, stride=2, padding=1)
