"""MixNet: links that add and links that concatenate."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aggnets_jax.benchmark.torch_networks.parts import Stage, concat, conv, imagenet_stem, norm_relu
from aggnets_jax.benchmark.torch_networks.sparsenet import DenseLayer, Transition
from aggnets_jax.layers import common
from aggnets_jax.models import mixnet as jax_networks


class Mixed:
    """Concatenation in which neighbours overlap by some channels, which are added."""

    def __init__(self, overlap: int) -> None:
        """Takes their number."""
        self.overlap = overlap

    def __call__(self, maps: Sequence[Tensor]) -> Tensor:
        """[batch, channels, ...] each -> [batch, all channels - overlaps, ...]."""
        return functools.reduce(self._join, maps)

    def _join(self, left: Tensor, right: Tensor) -> Tensor:
        kept = left.shape[1] - self.overlap
        both = left[:, kept:] + right[:, : self.overlap]
        return torch.cat([left[:, :kept], both, right[:, self.overlap :]], dim=1)


class MixedLayer(nn.Module):
    """What is added to the last channels before it, and what is appended."""

    def __init__(self, inputs: int, k1: int, k2: int) -> None:
        super().__init__()
        for name, k in (("inner", k1), ("outer", k2)):
            if k:
                self.add_module(name, DenseLayer(inputs, k, bottleneck=True))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, k1 + k2, height, width]."""
        return concat([bottleneck(x) for bottleneck in self.children()])


class MixNet(nn.Module):
    """Stem, stages with transitions between them, BN-ReLU, average, classifier."""

    def __init__(self, network: jax_networks.MixNet, image_shape: Sequence[int]) -> None:
        """Takes the numbers of a network, and (height, width, channels) of the images."""
        super().__init__()
        features, self.stages = network.stem_features, len(network.topologies)
        self.imagenet_stem, k1, k2 = network.imagenet_stem, network.k1, network.k2
        size, stride = (7, 2) if self.imagenet_stem else (3, 1)
        self.stem_conv = conv(image_shape[-1], features, size, stride=stride)
        if self.imagenet_stem:
            self.stem_norm = nn.BatchNorm2d(features)
        for i, topology in enumerate(network.topologies, 1):
            if i > 1:
                inputs = features
                features = common.compressed(inputs, network.compression, least=k1)
                self.add_module(f"transition{i - 1}", Transition(inputs, features))
            widths = [features, *[k1 + k2] * topology.depth]
            *inputs, features = (
                sum(widths[source] - k1 for source in read) + k1 for read in topology.sources
            )
            units = [MixedLayer(n, k1, k2) for n in inputs]
            self.add_module(f"stage{i}", Stage(topology.sources, units, Mixed(k1)))
        self.head_norm = nn.BatchNorm2d(features)
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
        return self.classifier(norm_relu(self.head_norm, x).mean((2, 3)))
