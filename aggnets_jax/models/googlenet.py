"""GoogLeNet for small images: a chain of modules that convolve at several sizes side by side.

Paper: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, arXiv 1409.4842 (Table 1).

    y_l = [1x1(y) || 3x3(1x1(y)) || 5x5(1x1(y)) || 1x1(pool(y))]

           .-- 1x1 -------------.
    y -----+-- 1x1 -- 3x3 ------+-- y'
           +-- 1x1 -- 3x3 - 3x3 +
           '-- max 3x3 -- 1x1 --'

Three stages of 2, 5 and 2 modules with max pooling between them. As in the public port for CIFAR
(kuangliu's), the stem is conv3x3(192)-BN-ReLU, a 5x5 convolution is two 3x3 ones, every convolution
has a bias and is followed by BN-ReLU, and there is no dropout. Micro-Dense's table prints 3.5M
parameters, which this network does not have.

The port has no auxiliary classifiers; `auxiliary_weight` (0.3 in the paper) adds them. In the paper
they follow modules 4a and 4d; here they follow the last modules of the first two stages, 3b and 4e.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from aggnets_jax.arguments import check_number
from aggnets_jax.connectivity.aggregation import check_aggregation
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import Topology, TopologyArgs, TopologyLike, stage_topologies
from aggnets_jax.layers import common
from aggnets_jax.layers.auxiliary import AuxiliaryHead
from aggnets_jax.layers.pooling import max_pool
from aggnets_jax.models.network import Endpoints, Network
from aggnets_jax.models.registry import register_family


class Widths(NamedTuple):
    """Channels of a module: a row of Table 1."""

    one: int
    reduce_three: int
    three: int
    reduce_five: int
    five: int
    pooled: int


STAGES = (
    (Widths(64, 96, 128, 16, 32, 32), Widths(128, 128, 192, 32, 96, 64)),
    (
        Widths(192, 96, 208, 16, 48, 64),
        Widths(160, 112, 224, 24, 64, 64),
        Widths(128, 128, 256, 24, 64, 64),
        Widths(112, 144, 288, 32, 64, 64),
        Widths(256, 160, 320, 32, 128, 128),
    ),
    (Widths(256, 160, 320, 32, 128, 128), Widths(384, 192, 384, 48, 128, 128)),
)


class Inception(nn.Module):
    """The unit: four branches side by side; a convolution is biased and followed by BN-ReLU."""

    widths: Widths
    norm: common.Norm
    conv: common.Conv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same with the channels of the branches."""
        widths = self.widths

        def conv(x: jax.Array, branch: int, index: int, features: int, size: int) -> jax.Array:
            x = self.conv(features, size, name=f"branch{branch}_conv{index}")(x)
            return nn.relu(self.norm(name=f"branch{branch}_norm{index}")(x))

        three = conv(conv(x, 2, 1, widths.reduce_three, 1), 2, 2, widths.three, 3)
        five = conv(conv(x, 3, 1, widths.reduce_five, 1), 3, 2, widths.five, 3)
        pooled = max_pool(x, (3, 3), padding=((1, 1), (1, 1)))
        branches = [
            conv(x, 1, 1, widths.one, 1),
            three,
            conv(five, 3, 3, widths.five, 3),
            conv(pooled, 4, 1, widths.pooled, 1),
        ]
        return jnp.concatenate(branches, axis=-1)


class GoogLeNet(Network):
    """Stem, stages of `Inception` with max pooling between them, head.

    Attributes:
      topologies: topology of each stage.
      aggregation: "concat", "sum" or "mean".
      auxiliary_weight: weight of the losses of two auxiliary classifiers; 0 for none.
    """

    topologies: tuple[Topology, ...]
    aggregation: str = "concat"
    auxiliary_weight: float = 0.0

    def _features(
        self, x: jax.Array, endpoints: Endpoints, norm: common.Norm, conv: common.Conv, train: bool
    ) -> jax.Array:
        plain, conv = conv, partial(conv, bias_init=nn.initializers.zeros)
        x = conv(192, 3, name="stem_conv")(x)
        x = endpoints["stem"] = nn.relu(norm(name="stem_norm")(x))
        for i, (topology, widths) in enumerate(zip(self.topologies, STAGES, strict=True), 1):
            if i > 1:
                x = max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
            x = Stage(
                topology,
                unit=lambda layer, name, widths=widths: Inception(
                    widths[layer - 1], norm, conv, name=name
                ),
                aggregation=self.aggregation,
                execution=self.execution,
                name=f"stage{i}",
            )(x)
            endpoints[f"stage{i}"] = x
            if self.auxiliary_weight and i < len(STAGES):
                head = AuxiliaryHead(self.num_classes, 1024, norm, plain, name=f"auxiliary{i}")
                endpoints[f"auxiliary{i}"] = head(x)
        if self.auxiliary_weight:
            endpoints["auxiliary_weight"] = jnp.float32(self.auxiliary_weight)
        return x


def googlenet_cifar(
    *,
    topology: TopologyLike = "plain",
    topology_args: TopologyArgs = None,
    **fields: Any,
) -> GoogLeNet:
    """Build a `GoogLeNet`.

    Args:
      topology: name of a pattern, or one for each stage.
      topology_args: arguments of the pattern, or one mapping for each stage.
      **fields: further fields of `GoogLeNet`.

    Raises:
      UserError: for numbers that fit no network.
    """
    topologies = stage_topologies(topology, topology_args, [len(stage) for stage in STAGES])
    network = GoogLeNet(topologies=topologies, **fields)
    check_aggregation(network.aggregation)
    check_number("auxiliary_weight", network.auxiliary_weight, 0)
    return network


register_family(
    "googlenet_cifar",
    googlenet_cifar,
    pattern="googlenet_cifar",
    paper="Going Deeper with Convolutions, CVPR 2015, arXiv 1409.4842",
)
