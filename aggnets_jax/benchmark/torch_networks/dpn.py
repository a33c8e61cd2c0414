"""Dual path networks."""

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aggnets_jax.benchmark.torch_networks.parts import (
    Stage,
    concatenated,
    conv,
    imagenet_stem,
    norm_relu,
)
from aggnets_jax.models import dpn as jax_networks

_norm = functools.partial(nn.BatchNorm2d, eps=1e-3)


class DualPath:
    """The first channels of maps added, the rest concatenated."""

    def __init__(self, residual: int) -> None:
        """Takes the channels that are added."""
        self.residual = residual

    def __call__(self, maps: Sequence[Tensor]) -> Tensor:
        """[batch, residual + any, ...] each -> [batch, residual + sum of any, ...]."""
        if len(maps) == 1:
            return maps[0]
        added = functools.reduce(torch.add, (x[:, : self.residual] for x in maps))
        return torch.cat([added, *(x[:, self.residual :] for x in maps)], dim=1)


class NormReluConv(nn.Module):
    """BN-ReLU-conv1x1 at a stride."""

    def __init__(self, inputs: int, features: int, stride: int) -> None:
        super().__init__()
        self.norm = _norm(inputs)
        self.conv = conv(inputs, features, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, features, height / stride, ...]."""
        return self.conv(norm_relu(self.norm, x))


class DualPathUnit(nn.Module):
    """BN-ReLU-conv1x1(w)-BN-ReLU-conv3x3(w, stride, groups)-BN-ReLU-conv1x1(features)."""

    def __init__(self, inputs: int, width: int, features: int, stride: int, groups: int) -> None:
        super().__init__()
        self.norm1 = _norm(inputs)
        self.conv1 = conv(inputs, width, 1)
        self.norm2 = _norm(width)
        self.conv2 = conv(width, width, 3, stride=stride, groups=groups)
        self.norm3 = _norm(width)
        self.conv3 = conv(width, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, features, height / stride, ...]."""
        x = self.conv1(norm_relu(self.norm1, x))
        x = self.conv2(norm_relu(self.norm2, x))
        return self.conv3(norm_relu(self.norm3, x))


class DPN(nn.Module):
    """Stem, stages of dual paths, BN-activation, average, classifier."""

    def __init__(self, network: jax_networks.DPN, image_shape: Sequence[int]) -> None:
        """Takes the numbers of a network, and (height, width, channels) of the images."""
        super().__init__()
        features, self.stages = network.stem_features, len(network.topologies)
        self.head_activation = F.elu if network.head_activation == "elu" else F.relu
        self.stem_conv = conv(image_shape[-1], features, network.stem_kernel, stride=2)
        self.stem_norm = _norm(features)
        for i, (topology, k) in enumerate(
            zip(network.topologies, network.growth_rates, strict=True), 1
        ):
            residual, width = (n * 2 ** (i - 1) for n in (network.residual, network.width))
            stride = 1 if i == 1 else 2
            projection = NormReluConv(features, residual + 2 * k, stride)
            # Layer 1 reads the input of the stage as it is.
            widths = concatenated(topology.sources, 2 * k, [k] * topology.depth)
            *inputs, joined = [features, *(residual + dense for dense in widths[1:])]
            units = [
                DualPathUnit(n, width, residual + k, stride if j == 0 else 1, network.groups)
                for j, n in enumerate(inputs)
            ]
            stage = Stage(topology.sources, units, DualPath(residual), projection)
            self.add_module(f"stage{i}", stage)
            features = joined
        self.head_norm = _norm(features)
        self.classifier = nn.Linear(features, network.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] -> [batch, classes]."""
        x = imagenet_stem(x, self.stem_conv, self.stem_norm)
        for i in range(1, self.stages + 1):
            x = getattr(self, f"stage{i}")(x)
        x = self.head_activation(self.head_norm(x), inplace=True)
        return self.classifier(x.mean((2, 3)))
