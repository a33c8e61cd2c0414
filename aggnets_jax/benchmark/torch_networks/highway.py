"""Highway networks."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aggnets_jax.benchmark.torch_networks.parts import Mean, add, conv, sequence
from aggnets_jax.connectivity.topology import Sources
from aggnets_jax.models import highway as jax_networks


class HighwayLayer(nn.Module):
    """T H(x) + (1 - T) shortcut."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.transform = conv(features, features, 3, bias=True)
        self.gate = conv(features, features, 3, bias=True)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """[batch, features, height, width] each -> the same shape."""
        transformed = F.relu(self.transform(x), inplace=True)
        return torch.lerp(shortcut, transformed, self.gate(x).sigmoid())


class HighwayStage(nn.Module):
    """Highway layers; the shortcut of each is the sum of its sources."""

    def __init__(self, sources: Sources, features: int) -> None:
        super().__init__()
        self.sources = sources[:-1]
        for number in range(1, len(sources)):
            self.add_module(f"layer{number}", HighwayLayer(features))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, features, height, width] -> the same shape."""
        outputs = [x]
        for number, read in enumerate(self.sources, 1):
            shortcut = add([outputs[source] for source in read])
            outputs.append(getattr(self, f"layer{number}")(outputs[-1], shortcut))
        return outputs[-1]


def highway(network: jax_networks.HighwayNet, image_shape: Sequence[int]) -> nn.Module:
    """Stages of a convolution and highway layers with max pooling between them, head."""
    features, layers = image_shape[-1], {}
    for i, (topology, width) in enumerate(zip(network.topologies, network.widths, strict=True), 1):
        if i > 1:
            layers[f"pool{i - 1}"] = nn.MaxPool2d(2)
        layers[f"stage{i}_opening"] = conv(features, width, 3, bias=True)
        layers[f"stage{i}_relu"] = nn.ReLU(inplace=True)
        layers[f"stage{i}"] = HighwayStage(topology.sources, width)
        features = width
    return sequence(
        **layers,
        head_conv=conv(features, jax_networks.HEAD_FEATURES, 1, bias=True),
        head_relu=nn.ReLU(inplace=True),
        mean=Mean(),
        classifier=nn.Linear(jax_networks.HEAD_FEATURES, network.num_classes),
    )
