"""Pre-activation ResNet and SparseNet[+]: one network, two topologies.

Paper: He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016, arXiv 1603.05027, and
Zhu et al., "Sparsely Aggregated Convolutional Networks", ECCV 2018, arXiv 1801.05895 (Table 3).

    SparseNet[+], eq. 2:  y_l = F_l(y_{l-1} + y_{l-2} + y_{l-4} + y_{l-8} + ...)
    ResNet,       eq. 3:  y_l = F_l(y_0 + y_1 + ... + y_{l-1}),  x_l = x_{l-1} + F_l(x_{l-1})

y_0 is the 1x1 projection of the stage's input to the width and stride of the stage. The first layer
reads the input itself, as in the first block of a residual stage. F_l is the bottleneck
BN-ReLU-conv1x1(w)-BN-ReLU-conv3x3(w)-BN-ReLU-conv1x1(4w). There is no other path: with the dense
topology, the running sum is the identity shortcut.

Where the paper and the counts differ: Table 3 is about CIFAR-100, but its parameters are those of
networks with 10 classes. They agree to the digit for bottleneck networks of depth 9n + 2.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from flax import linen as nn

from aggnets_jax.arguments import layers_in_depth
from aggnets_jax.connectivity.aggregation import Masked, check_aggregation
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import Topology, TopologyArgs, TopologyLike, stage_topologies
from aggnets_jax.layers import common, regularisation
from aggnets_jax.models.network import Endpoints, Network
from aggnets_jax.models.registry import register_family

EXPANSION = 4


class PreActBottleneck(nn.Module):
    """The unit F: BN-ReLU-conv1x1(w)-BN-ReLU-conv3x3(w, stride)-BN-ReLU-conv1x1(4w).

    Attributes:
      width: w.
      stride: stride of the 3x3 convolution.
      norm: makes batch normalisations.
      conv: makes convolutions.
    """

    width: int
    stride: int
    norm: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array | Masked) -> jax.Array:
        """[batch, height, width, channels] -> [batch, height / stride, width / stride, 4w]."""
        x = self.conv(self.width, 1, name="conv1")(common.activate(self.norm(name="norm1"), x))
        x = nn.relu(self.norm(name="norm2")(x))
        x = self.conv(self.width, 3, stride=self.stride, name="conv2")(x)
        x = nn.relu(self.norm(name="norm3")(x))
        return self.conv(EXPANSION * self.width, 1, name="conv3")(x)


class PreActResNet(Network):
    """Stem conv3x3(16), stages of widths 16, 32, 64 (the later ones at stride 2), head.

    Attributes:
      topologies: topology of each stage.
      aggregation: "sum", or "mean" or "concat".
      stochastic_depth: probability of dropping an image's F in the last block; it rises from 0 with
        the blocks.
      dynamic_regularisation: whether F is scaled by random numbers in training; it changes nothing
        unless `config.strength` is set.
      branch_scale: A, the mean of these random numbers, which scales F in evaluation.
    """

    topologies: tuple[Topology, ...]
    aggregation: str = "sum"
    stochastic_depth: float = 0.0
    dynamic_regularisation: bool = False
    branch_scale: float = 1.0

    def _features(
        self, x: jax.Array, endpoints: Endpoints, norm: common.Norm, conv: common.Conv, train: bool
    ) -> jax.Array:
        blocks = sum(topology.depth for topology in self.topologies)
        regularise = regularisation.regularised_branches(self, blocks, train=train)
        before = 0

        def block(number: int, *arguments: int, name: str) -> Callable[[jax.Array], jax.Array]:
            unit = PreActBottleneck(*arguments, norm, conv, name=name)
            regularised = regularise(number, name)
            return lambda x: regularised(unit(x))

        def projection(*arguments: int, stride: int, name: str) -> Callable[[jax.Array], jax.Array]:
            project = conv(*arguments, stride=stride, name=name)
            return lambda x: project(common.masked(x))

        x = conv(16, 3, name="stem_conv")(x)
        endpoints["stem"] = x
        for i, topology in enumerate(self.topologies):
            width, stride = 16 * 2**i, 1 if i == 0 else 2
            x = Stage(
                topology,
                unit=lambda layer, name, before=before, width=width, stride=stride: block(
                    before + layer, width, stride if layer == 1 else 1, name=name
                ),
                aggregation=self.aggregation,
                projection=partial(projection, EXPANSION * width, 1, stride=stride),
                preactivated=True,
                train=train,
                # The first layer has the stride; with stochastic depth each has its own rate.
                kind=lambda layer: layer if self.stochastic_depth else layer == 1,
                execution=regularisation.execution_of_branches(self),
                name=f"stage{i + 1}",
            )(x)
            endpoints[f"stage{i + 1}"] = common.features_of(x)
            before += topology.depth

        return common.activate(norm(name="head_norm"), x)


def preact_resnet(
    *,
    depth: int,
    topology: TopologyLike,
    topology_args: TopologyArgs = None,
    **fields: Any,
) -> PreActResNet:
    """Build a `PreActResNet`.

    Args:
      depth: 9n + 2: three stages of n bottlenecks, the stem and the classifier.
      topology: name of a pattern, or one for each stage.
      topology_args: arguments of the pattern, or one mapping for each stage.
      **fields: further fields of `PreActResNet`.

    Raises:
      UserError: for a depth that is not 9n + 2, and other numbers that fit no network.
    """
    depths = (layers_in_depth(depth, 9, 2),) * 3
    topologies = stage_topologies(topology, topology_args, depths)
    network = PreActResNet(topologies=topologies, **fields)
    check_aggregation(network.aggregation)
    regularisation.check_branches(network)
    return network


for _name, _topology, _paper in [
    (
        "preact_resnet",
        "dense",
        "Identity Mappings in Deep Residual Networks, ECCV 2016, arXiv 1603.05027",
    ),
    (
        "sparsenet_sum",
        "sparse",
        "Sparsely Aggregated Convolutional Networks, ECCV 2018, arXiv 1801.05895",
    ),
]:
    register_family(
        _name,
        partial(preact_resnet, topology=_topology),
        pattern=rf"{_name}(?P<depth>\d+)",
        paper=_paper,
    )
