"""Log-DenseNet V2: links at logarithmic distances in a stage, and one to all outputs before it.

Paper: Hu et al., "Log-DenseNet: How to Sparsify a DenseNet", arXiv 1711.00002, and the authors'
code.

    y_l = F_l(concat of c and y_{l - 2^i} within the stage, oldest first),  F = BN-ReLU-conv3x3(k)
    c'  = concat of T(c) and T(concat of all outputs of the stage)

    c ----+-----+-----+-----.             .-- T --.
          |     |     |     |             |       |
          +-> y_1 -> y_2 -> y_3 --(all)-- T --- concat -- c' of the next stage

One topology covers the whole network. c contains all outputs before the stage: in "log_dense_v2",
the stem and the earlier stages are sources of every layer. `stage_part` makes a stage's topology
from it, in which c is y_0. T is BN-ReLU-conv1x1-average pool; it keeps the width of c, and brings
the outputs to min(n k, k (floor(log2(3n + 1)) + 1)) channels. The classifier reads the last layer's
output and sources.

HCGNet's row prints neither n nor k. Of the networks with 19.0M parameters, n = 32 and k = 40 (depth
100) comes near to the printed 11.1G; n = 57 and k = 28 with 100 classes comes nearly as close. The
blocks are certain, the size is a fit.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from aggnets_jax.arguments import check_number, check_whole_number, layers_in_depth
from aggnets_jax.connectivity.aggregation import check_aggregation
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import Topology, TopologyArgs, TopologyLike, stage_topologies
from aggnets_jax.layers import common
from aggnets_jax.layers.dense_layers import DenseLayer
from aggnets_jax.models.network import Endpoints, Network
from aggnets_jax.models.registry import register_family


def stage_part(whole: Topology, stage: int, stages: int) -> Topology:
    """Return a stage's topology, 0, 1, ... of a network whose layers are in equally deep stages.

    Its y_0 is all that comes before the stage. Its output is every layer, or in the last stage what
    the output of the network reads.
    """
    depth = whole.depth // stages
    first = stage * depth

    def local(sources: Sequence[int]) -> tuple[int, ...]:
        before = any(source <= first for source in sources)
        return (*[0] * before, *(source - first for source in sources if source > first))

    layers = [local(whole.sources_of(first + layer)) for layer in range(1, depth + 1)]
    last = stage == stages - 1
    output = local(whole.output_sources) if last else tuple(range(1, depth + 1))
    return Topology(whole.name, (*layers, output))


class HalvingConv(nn.Module):
    """T: BN-ReLU-conv1x1(features)-average pool 2x2."""

    features: int
    norm: common.Norm
    conv: common.Conv

    @nn.compact
    def __call__(self, x: Any) -> jax.Array:
        """[batch, height, width, channels] -> [batch, height / 2, width / 2, features]."""
        x = common.activate(self.norm(name="norm"), x)
        return common.average_pool_of(self.conv(self.features, 1, name="conv"), x)


class LogDenseNetV2(Network):
    """Stem conv3x3(2k), stages of `DenseLayer` with two `HalvingConv` between them, head.

    Attributes:
      whole: topology of all layers.
      growth_rate: k.
      stages: number of stages.
      aggregation: "concat".
      dropout: probability of dropping a channel after each convolution (0.2 in the authors' code).
    """

    whole: Topology
    growth_rate: int
    stages: int = 3
    aggregation: str = "concat"
    dropout: float = 0.0

    @property
    def topologies(self) -> tuple[Topology, ...]:
        """The topologies of the stages, parts of the whole one."""
        return tuple(stage_part(self.whole, i, self.stages) for i in range(self.stages))

    @property
    def compressed(self) -> int:
        """The channels to which a transition brings the outputs of a stage."""
        k, depth = self.growth_rate, self.whole.depth
        return min(depth // self.stages * k, k * (depth + 1).bit_length())

    def _features(
        self, x: jax.Array, endpoints: Endpoints, norm: common.Norm, conv: common.Conv, train: bool
    ) -> jax.Array:
        dropout = partial(common.channel_dropout, self.dropout, train=train)
        k = self.growth_rate

        x = conv(2 * k, 3, name="stem_conv")(x)
        endpoints["stem"] = x
        for i, topology in enumerate(self.topologies, start=1):
            outputs = Stage(
                topology,
                unit=partial(DenseLayer, k, False, 1, norm, conv, dropout),
                aggregation=self.aggregation,
                preactivated=True,
                train=train,
                kind=lambda layer: None,
                execution=self.execution,
                name=f"stage{i}",
            )(x)
            endpoints[f"stage{i}"] = common.features_of(outputs)
            if i < self.stages:
                old = HalvingConv(x.shape[-1], norm, conv, name=f"transition{i}_old")(x)
                new = HalvingConv(self.compressed, norm, conv, name=f"transition{i}_new")(outputs)
                x = jnp.concatenate([old, new], axis=-1)

        return common.activate(norm(name="head_norm"), outputs)


def log_densenet_v2(
    *,
    depth: int,
    growth_rate: int,
    topology: TopologyLike = "log_dense_v2",
    topology_args: TopologyArgs = None,
    **fields: Any,
) -> LogDenseNetV2:
    """Build a `LogDenseNetV2`.

    Args:
      depth: 3n + 4: three stages of n layers.
      growth_rate: k.
      topology: name of a pattern of all layers.
      topology_args: arguments of the pattern.
      **fields: further fields of `LogDenseNetV2`.

    Raises:
      UserError: for numbers that fit no network.
    """
    check_whole_number("growth_rate", growth_rate, 1)
    layers = 3 * layers_in_depth(depth, 3, 4)
    (whole,) = stage_topologies(topology, topology_args, [layers])
    network = LogDenseNetV2(whole=whole, growth_rate=growth_rate, **fields)
    check_aggregation(network.aggregation, ("concat",), "c is wider than the layers")
    check_number("dropout", network.dropout, 0, 0.99)
    return network


register_family(
    "log_densenet_v2",
    log_densenet_v2,
    pattern=r"log_densenet_v2_(?P<depth>\d+)_k(?P<growth_rate>\d+)",
    paper="Log-DenseNet: How to Sparsify a DenseNet, arXiv 1711.00002",
)
