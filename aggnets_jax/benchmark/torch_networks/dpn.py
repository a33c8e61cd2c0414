"""Dual path networks."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aggnets_jax.benchmark.torch_networks.parts import (
    Aggregate,
    Mean,
    NormReLU,
    Stage,
    concatenated,
    conv,
    imagenet_stem,
    pre_activated,
    sequence,
)
from aggnets_jax.models import dpn as jax_networks

_norm = functools.partial(NormReLU, eps=1e-3)


def dual_path(residual: int) -> Aggregate:
    """Return the aggregate that adds the first channels and concatenates the rest."""

    def aggregate(maps: Sequence[Tensor]) -> Tensor:
        if len(maps) == 1:
            return maps[0]
        added = functools.reduce(torch.add, (x[:, :residual] for x in maps))
        return torch.cat([added, *(x[:, residual:] for x in maps)], dim=1)

    return aggregate


def unit(inputs: int, width: int, features: int, stride: int, groups: int) -> nn.Module:
    """BN-ReLU-conv1x1(w)-BN-ReLU-conv3x3(w, stride, groups)-BN-ReLU-conv1x1(features)."""
    return pre_activated(
        conv(inputs, width, 1),
        conv(width, width, 3, stride=stride, groups=groups),
        conv(width, features, 1),
        norm=_norm,
    )


def dpn(network: jax_networks.DPN, image_shape: Sequence[int]) -> nn.Module:
    """Stem, stages of dual paths, BN-activation, average, classifier."""
    features = network.stem_features
    layers = imagenet_stem(image_shape[-1], features, _norm, network.stem_kernel)
    for i, (topology, k) in enumerate(zip(network.topologies, network.growth_rates, strict=True)):
        residual, width = network.residual * 2**i, network.width * 2**i
        stride = 1 if i == 0 else 2
        projection = sequence(
            norm=_norm(features), conv=conv(features, residual + 2 * k, 1, stride=stride)
        )
        # Layer 1 reads the input of the stage without the projection.
        widths = concatenated(topology.sources, 2 * k, [k] * topology.depth)
        *inputs, joined = [features, *(residual + dense for dense in widths[1:])]
        units = [
            unit(n, width, residual + k, stride if j == 0 else 1, network.groups)
            for j, n in enumerate(inputs)
        ]
        layers[f"stage{i + 1}"] = Stage(topology.sources, units, dual_path(residual), projection)
        features = joined
    elu = network.head_activation == "elu"
    return sequence(
        **layers,
        head_norm=nn.BatchNorm2d(features, eps=1e-3),
        head_activation=nn.ELU(inplace=True) if elu else nn.ReLU(inplace=True),
        mean=Mean(),
        classifier=nn.Linear(features, network.num_classes),
    )
