"""MixNet: links that add and links that concatenate."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aggnets_jax.benchmark.torch_networks.parts import (
    Aggregate,
    Mean,
    NormReLU,
    Stage,
    concat,
    conv,
    imagenet_stem,
    sequence,
)
from aggnets_jax.benchmark.torch_networks.sparsenet import dense_layer, transition
from aggnets_jax.layers import common
from aggnets_jax.models import mixnet as jax_networks


def mixed(overlap: int) -> Aggregate:
    """Return the concatenation that adds the given number of channels of neighbouring maps."""

    def join(left: Tensor, right: Tensor) -> Tensor:
        kept = left.shape[1] - overlap
        both = left[:, kept:] + right[:, :overlap]
        return torch.cat([left[:, :kept], both, right[:, overlap:]], dim=1)

    return functools.partial(functools.reduce, join)


class MixedLayer(nn.Module):
    """k1 channels to add to the last channels of the input, and k2 channels to append."""

    def __init__(self, inputs: int, k1: int, k2: int) -> None:
        super().__init__()
        for name, k in (("inner", k1), ("outer", k2)):
            if k:
                self.add_module(name, dense_layer(inputs, k, bottleneck=True))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, k1 + k2, height, width]."""
        return concat([bottleneck(x) for bottleneck in self.children()])


def mixnet(network: jax_networks.MixNet, image_shape: Sequence[int]) -> nn.Module:
    """Stem, stages with transitions between them, BN-ReLU, average, classifier."""
    channels, features = image_shape[-1], network.stem_features
    k1, k2 = network.k1, network.k2
    layers = {"stem_conv": conv(channels, features, 3)}
    if network.imagenet_stem:
        layers = imagenet_stem(channels, features)
    for i, topology in enumerate(network.topologies, 1):
        if i > 1:
            inputs = features
            features = common.compressed(inputs, network.compression, least=k1)
            layers[f"transition{i - 1}"] = transition(inputs, features)
        widths = [features, *[k1 + k2] * topology.depth]
        *inputs, features = (
            sum(widths[source] - k1 for source in read) + k1 for read in topology.sources
        )
        units = [MixedLayer(n, k1, k2) for n in inputs]
        layers[f"stage{i}"] = Stage(topology.sources, units, mixed(k1))
    classifier = nn.Linear(features, network.num_classes)
    return sequence(**layers, head_norm=NormReLU(features), mean=Mean(), classifier=classifier)
