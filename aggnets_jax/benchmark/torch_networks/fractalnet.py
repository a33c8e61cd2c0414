"""FractalNet: paths of all lengths, joined by their mean."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from aggnets_jax.benchmark.torch_networks.parts import Stage, add, conv, norm_relu
from aggnets_jax.models import fractalnet as jax_networks


class FractalConv(nn.Module):
    """conv3x3-BN-ReLU."""

    def __init__(self, inputs: int, features: int) -> None:
        super().__init__()
        self.conv = conv(inputs, features, 3)
        self.norm = nn.BatchNorm2d(features)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, features, height, width]."""
        return norm_relu(self.norm, self.conv(x))


class FractalStage(Stage):
    """All that start at a join read the same mean, which is computed once."""

    def forward(self, x: Tensor) -> Tensor:
        """The input of the stage -> the join that is its output."""
        outputs, joins = [x], {}
        for number, read in enumerate(self.sources, 1):
            if read not in joins:
                joins[read] = add([outputs[source] for source in read])
                if len(read) > 1:
                    joins[read] = joins[read] / len(read)
            if number < len(self.sources):
                outputs.append(getattr(self, f"layer{number}")(joins[read]))
            if number == 1 and self.projection is not None:
                outputs[0] = self.projection(x)
        return joins[self.sources[-1]]


class FractalNet(nn.Module):
    """Blocks with a max pooling behind each, average, classifier."""

    def __init__(self, network: jax_networks.FractalNet, image_shape: Sequence[int]) -> None:
        """Takes the numbers of a network, and (height, width, channels) of the images."""
        super().__init__()
        features, self.stages = image_shape[-1], len(network.topologies)
        for i, (topology, width) in enumerate(
            zip(network.topologies, network.widths, strict=True), 1
        ):
            joined = any(0 in read and len(read) > 1 for read in topology.sources)
            projection = conv(features, width, 1) if joined else None
            inputs = [
                features if read == (0,) and (n == 0 or not joined) else width
                for n, read in enumerate(topology.sources[:-1])
            ]
            layers = [FractalConv(n, width) for n in inputs]
            stage = FractalStage(topology.sources, layers, add, projection)
            self.add_module(f"stage{i}", stage)
            features = width
        self.classifier = nn.Linear(features, network.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] -> [batch, classes]."""
        for i in range(1, self.stages + 1):
            x = F.max_pool2d(getattr(self, f"stage{i}")(x), 2)
        return self.classifier(x.mean((2, 3)))
