"""DenseNet, SparseNet[concat] and Log-DenseNet, as torchvision writes a DenseNet."""

import math
from collections.abc import Sequence

from torch import nn

from aggnets_jax.benchmark.torch_networks.parts import (
    Mean,
    NormReLU,
    Stage,
    concat,
    concatenated,
    conv,
    imagenet_stem,
    pre_activated,
    sequence,
)
from aggnets_jax.layers import common
from aggnets_jax.models import sparsenet as jax_networks


def dense_layer(inputs: int, k: int, *, bottleneck: bool, groups: int = 1) -> nn.Module:
    """BN-ReLU-conv3x3(k), or BN-ReLU-conv1x1(4k)-BN-ReLU-conv3x3(k)."""
    if not bottleneck:
        return pre_activated(conv(inputs, k, 3, groups=groups))
    return pre_activated(conv(inputs, 4 * k, 1), conv(4 * k, k, 3, groups=groups))


def transition(inputs: int, features: int) -> nn.Module:
    """BN-ReLU-conv1x1-average pool 2x2."""
    return sequence(norm=NormReLU(inputs), conv=conv(inputs, features, 1), pool=nn.AvgPool2d(2))


def sparsenet(network: jax_networks.SparseNet, image_shape: Sequence[int]) -> nn.Module:
    """Stem, stages with transitions between them, BN-ReLU, pooling, classifier."""
    *sides, channels = image_shape
    features = network.stem_features
    layers = {"stem_conv": conv(channels, features, 3)}
    if network.imagenet_stem:
        layers = imagenet_stem(channels, features)
        sides = [-(-side // 4) for side in sides]
    for i, (topology, k) in enumerate(
        zip(network.topologies, network.growth_rates, strict=True), 1
    ):
        if i > 1:
            inputs, features = features, common.compressed(features, network.compression)
            layers[f"transition{i - 1}"] = transition(inputs, features)
        *inputs, features = concatenated(topology.sources, features, [k] * topology.depth)
        kind = {"bottleneck": network.bottleneck, "groups": network.groups}
        units = [dense_layer(n, k, **kind) for n in inputs]
        layers[f"stage{i}"] = Stage(topology.sources, units, concat)
    layers["head_norm"] = NormReLU(features)
    if network.pool == "flatten":  # after one more halving than there are transitions
        layers |= {"head_pool": nn.AvgPool2d(2), "flatten": nn.Flatten()}
        features *= math.prod(side // 2 ** len(network.topologies) for side in sides)
    else:
        layers["mean"] = Mean()
    return sequence(**layers, classifier=nn.Linear(features, network.num_classes))
