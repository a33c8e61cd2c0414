"""HarDNet: harmonic dense blocks."""

from collections.abc import Sequence

from torch import nn

from aggnets_jax.benchmark.torch_networks.parts import (
    Mean,
    Stage,
    concat,
    concatenated,
    conv,
    sequence,
)
from aggnets_jax.models import hardnet as jax_networks


def conv_norm(inputs: int, features: int, kernel_size: int, *, stride: int = 1) -> nn.Module:
    """Convolution-BN-ReLU6."""
    return sequence(
        conv=conv(inputs, features, kernel_size, stride=stride),
        norm=nn.BatchNorm2d(features),
        relu=nn.ReLU6(inplace=True),
    )


def depthwise(features: int, *, stride: int = 1) -> nn.Module:
    """Depthwise convolution 3x3-BN."""
    return sequence(
        conv=conv(features, features, 3, stride=stride, groups=features),
        norm=nn.BatchNorm2d(features),
    )


def unit(network: jax_networks.HarDNet, inputs: int, features: int) -> nn.Module:
    """Conv3x3-BN-ReLU6, or conv1x1-BN-ReLU6 and a depthwise convolution."""
    if network.depthwise:
        return sequence(pointwise=conv_norm(inputs, features, 1), depthwise=depthwise(features))
    return conv_norm(inputs, features, 3)


def halving(network: jax_networks.HarDNet, features: int, window: int) -> nn.Module:
    """Return the layer that halves the resolution."""
    if network.depthwise:
        return depthwise(features, stride=2)
    return nn.MaxPool2d(window, stride=2, padding=(window - 1) // 2)


def hardnet(network: jax_networks.HarDNet, image_shape: Sequence[int]) -> nn.Module:
    """Stem, blocks each followed by conv1x1-BN-ReLU6 and some by a halving, average, classifier."""
    first, features = network.stem_features
    layers = {
        "stem1": conv_norm(image_shape[-1], first, 3, stride=2),
        "stem2": conv_norm(first, features, 1 if network.depthwise else 3),
        "stem_down": halving(network, features, 3),
    }
    for i, (topology, k) in enumerate(zip(network.topologies, network.growth_rates, strict=True)):
        numbers = range(1, topology.depth + 1)
        widths = [jax_networks.layer_width(n, k, network.multiplier) for n in numbers]
        *inputs, joined = concatenated(topology.sources, features, widths)
        units = [unit(network, n, width) for n, width in zip(inputs, widths, strict=True)]
        features = network.features[i]
        layers[f"stage{i + 1}"] = Stage(topology.sources, units, concat)
        layers[f"transition{i + 1}"] = conv_norm(joined, features, 1)
        if network.downsampled[i]:
            layers[f"down{i + 1}"] = halving(network, features, 2)
    classifier = nn.Linear(features, network.num_classes)
    return sequence(**layers, mean=Mean(), classifier=classifier)
