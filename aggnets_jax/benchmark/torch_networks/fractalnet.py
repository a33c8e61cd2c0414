"""FractalNet: paths of different lengths, joined by their mean."""

from collections.abc import Sequence

from torch import Tensor, nn

from aggnets_jax.benchmark.torch_networks.parts import Mean, NormReLU, Stage, add, conv, sequence
from aggnets_jax.models import fractalnet as jax_networks


class FractalStage(Stage):
    """A stage of means; a mean that several layers read is computed once."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean that is the stage's output."""
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


def fractalnet(network: jax_networks.FractalNet, image_shape: Sequence[int]) -> nn.Module:
    """Stages of conv3x3-BN-ReLU, a max pooling after each, average, classifier."""
    features, layers = image_shape[-1], {}
    for i, (topology, width) in enumerate(zip(network.topologies, network.widths, strict=True), 1):
        joined = any(0 in read and len(read) > 1 for read in topology.sources)
        projection = conv(features, width, 1) if joined else None
        inputs = [
            features if read == (0,) and (n == 0 or not joined) else width
            for n, read in enumerate(topology.sources[:-1])
        ]
        units = [sequence(conv=conv(n, width, 3), norm=NormReLU(width)) for n in inputs]
        layers[f"stage{i}"] = FractalStage(topology.sources, units, add, projection)
        layers[f"pool{i}"] = nn.MaxPool2d(2)
        features = width
    classifier = nn.Linear(features, network.num_classes)
    return sequence(**layers, mean=Mean(), classifier=classifier)
