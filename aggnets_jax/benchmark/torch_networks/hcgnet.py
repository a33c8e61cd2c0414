"""HCGNet: hybrid blocks of gated modules."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aggnets_jax.benchmark.torch_networks.parts import (
    Mean,
    NormReLU,
    Stage,
    concat,
    concatenated,
    conv,
    sequence,
)
from aggnets_jax.layers import common
from aggnets_jax.models import hcgnet as jax_networks


class AttentionPool(nn.Module):
    """Mean over positions, weighted by the softmax of one score for each position."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.scores = conv(features, 1, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, features, height, width] -> [batch, features, 1, 1]."""
        weights = self.scores(x).flatten(2).softmax(-1)
        return (x.flatten(2) @ weights.transpose(1, 2)).unsqueeze(-1)


def forget_gate(features: int, hidden: int) -> nn.Module:
    """sigmoid(W_2 tanh(BN(W_1 P(X))))."""
    return sequence(
        pool=AttentionPool(features),
        linear1=conv(features, hidden, 1, bias=True),
        norm=nn.BatchNorm2d(hidden),
        tanh=nn.Tanh(),
        linear2=conv(hidden, features, 1, bias=True),
        sigmoid=nn.Sigmoid(),
    )


class UpdateGate(nn.Module):
    """u P(A) + (1 - u) P(B), with u from a softmax over two heads on both."""

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
        # The softmax of two values is a sigmoid of their difference.
        u = torch.sigmoid(self.head_3x3(h) - self.head_5x5(h))
        return torch.lerp(z_5x5, z_3x3, u)


class SMG(nn.Module):
    """Squeeze cell, a plain and a dilated depthwise convolution of its output, gates."""

    def __init__(
        self, inputs: int, features: int, width: int, *, groups: int, stride: int, reduction: int
    ) -> None:
        super().__init__()
        self.norm1 = NormReLU(inputs)
        self.conv1 = conv(inputs, width, 1)
        self.norm2 = NormReLU(width)
        self.conv2 = conv(width, features, 3, stride=stride, groups=groups)
        self.norm_3x3 = NormReLU(features)
        self.conv_3x3 = conv(features, features, 3, groups=features)
        self.norm_5x5 = NormReLU(features)
        self.conv_5x5 = conv(features, features, 3, groups=features, dilation=2)
        self.forget_gate = forget_gate(features, features // reduction)
        self.update_gate = UpdateGate(features, 2 * features // reduction)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, features, height / stride, ...]."""
        x = self.conv2(self.norm2(self.conv1(self.norm1(x))))
        x_3x3 = self.conv_3x3(self.norm_3x3(x))
        x_5x5 = self.conv_5x5(self.norm_5x5(x))
        return torch.addcmul(self.update_gate(x_3x3, x_5x5), x, self.forget_gate(x))


def stem(network: jax_networks.HCGNet, channels: int) -> dict[str, nn.Module]:
    """Return the layers of the stem."""
    features = network.stem_features
    if not network.imagenet_stem:
        return {"stem_conv": conv(channels, features, 3)}
    layers, widths = {}, (channels, features // 2, features // 2, features)
    for i in (1, 2, 3):
        stride = 2 if i == 1 else 1
        layers[f"stem_conv{i}"] = conv(widths[i - 1], widths[i], 3, stride=stride)
        layers[f"stem_norm{i}"] = NormReLU(widths[i])
    return layers | {"stem_pool": nn.MaxPool2d(3, stride=2, padding=1)}


def hcgnet(network: jax_networks.HCGNet, image_shape: Sequence[int]) -> nn.Module:
    """Stem, hybrid blocks with transitions between them, BN-ReLU, average, classifier."""
    layers, features = stem(network, image_shape[-1]), network.stem_features
    for i, (topology, k) in enumerate(
        zip(network.topologies, network.growth_rates, strict=True), 1
    ):
        if i > 1:
            less = common.compressed(features, network.compression)
            width = features - (features - less) // 2
            transition = SMG(features, less, width, groups=1, stride=2, reduction=4)
            layers[f"transition{i - 1}"] = transition
            features = less
        *inputs, features = concatenated(topology.sources, features, [k] * topology.depth)
        width = jax_networks.MULTIPLIER * k
        units = [SMG(n, k, width, groups=network.groups, stride=1, reduction=2) for n in inputs]
        layers[f"stage{i}"] = Stage(topology.sources, units, concat)
    classifier = nn.Linear(features, network.num_classes)
    return sequence(**layers, head_norm=NormReLU(features), mean=Mean(), classifier=classifier)
