"""Pre-activation ResNet and SparseNet[+], of bottlenecks."""

from collections.abc import Sequence

from torch import nn

from aggnets_jax.benchmark.torch_networks.parts import (
    Mean,
    NormReLU,
    Stage,
    add,
    conv,
    pre_activated,
    sequence,
)
from aggnets_jax.models import preact_resnet as jax_networks


def bottleneck(inputs: int, width: int, stride: int) -> nn.Module:
    """BN-ReLU-conv1x1(w)-BN-ReLU-conv3x3(w, stride)-BN-ReLU-conv1x1(4w)."""
    return pre_activated(
        conv(inputs, width, 1), conv(width, width, 3, stride=stride), conv(width, 4 * width, 1)
    )


def preact_resnet(network: jax_networks.PreActResNet, image_shape: Sequence[int]) -> nn.Module:
    """Stem conv3x3(16), three stages, BN-ReLU, average, classifier."""
    features = 16
    layers = {"stem_conv": conv(image_shape[-1], features, 3)}
    for i, topology in enumerate(network.topologies, 1):
        width, stride = 16 * 2 ** (i - 1), 1 if i == 1 else 2
        units = [bottleneck(features, width, stride)]
        units += [bottleneck(4 * width, width, 1) for _ in range(topology.depth - 1)]
        projection = conv(features, 4 * width, 1, stride=stride)
        layers[f"stage{i}"] = Stage(topology.sources, units, add, projection)
        features = 4 * width
    classifier = nn.Linear(features, network.num_classes)
    return sequence(**layers, head_norm=NormReLU(features), mean=Mean(), classifier=classifier)
