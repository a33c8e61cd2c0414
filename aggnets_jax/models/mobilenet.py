r"""MobileNetV2 for small images: residual blocks that are narrow at both ends.

Paper: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, arXiv
1801.04381 (Table 2).

    y_l = y_{l-1} + F_l(y_{l-1}),  F = 1x1-BN(depthwise3x3-BN-ReLU6(1x1-BN-ReLU6))

    x --F-- y_0 --F_1--(+)-- y_1 --F_2--(+)-- y_2
             \---------/       \---------/
    opening     layer1            layer2

The block that opens a stage changes the width and has no shortcut. For CIFAR the strides of the
stem and of the stage with 24 channels are 1 instead of 2; sizes do not depend on them. The paper's
dropout of 0.2 before the classifier is 0 here by default.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from aggnets_jax.arguments import check_number
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import Topology, TopologyArgs, TopologyLike, stage_topologies
from aggnets_jax.layers import common
from aggnets_jax.layers.inverted_residual import InvertedResidual
from aggnets_jax.layers.pyramid_blocks import joined
from aggnets_jax.models.network import Endpoints, Network
from aggnets_jax.models.pyramidnet import check_shortcut_aggregation
from aggnets_jax.models.registry import register_family


class Row(NamedTuple):
    """A row of Table 2: t, c, n and s."""

    expansion: int
    features: int
    blocks: int
    stride: int


ROWS = (
    Row(1, 16, 1, 1),
    Row(6, 24, 2, 1),
    Row(6, 32, 3, 2),
    Row(6, 64, 4, 2),
    Row(6, 96, 3, 1),
    Row(6, 160, 3, 2),
    Row(6, 320, 1, 1),
)


class MobileNetV2(Network):
    """Stem conv3x3(32), stages of `InvertedResidual`, conv1x1(1280), with BN-ReLU6 each, head.

    Attributes:
      topologies: topology of each stage's blocks after its opening.
      aggregation: aggregation of the outputs that a shortcut reads, "sum" or "mean".
      dropout: probability of dropping a feature before the classifier, 0.2 in the paper.
    """

    topologies: tuple[Topology, ...]
    aggregation: str = "sum"
    dropout: float = 0.0

    def _features(
        self, x: jax.Array, endpoints: Endpoints, norm: common.Norm, conv: common.Conv, train: bool
    ) -> jax.Array:
        x = conv(32, 3, name="stem_conv")(x)
        x = endpoints["stem"] = nn.relu6(norm(name="stem_norm")(x))
        for i, (row, topology) in enumerate(zip(ROWS, self.topologies, strict=True), 1):
            block = partial(
                InvertedResidual,
                row.features,
                row.expansion,
                activation=nn.relu6,
                norm=norm,
                conv=conv,
            )
            x = block(stride=row.stride, name=f"stage{i}_opening")(x)
            x = Stage(
                topology,
                unit=lambda name, block=block: joined(block(stride=1, name=name)),
                aggregation=self.aggregation,
                shortcuts=True,
                execution=self.execution,
                kind=lambda layer: None,
                name=f"stage{i}",
            )(x)
            endpoints[f"stage{i}"] = x

        return nn.relu6(norm(name="head_norm")(conv(1280, 1, name="head_conv")(x)))

    def _head(self, x: jax.Array, train: bool) -> dict[str, Any]:
        return {
            "dropout": nn.Dropout(self.dropout, deterministic=not train),
            "kernel_init": nn.initializers.normal(0.01),
        }


def mobilenet_v2_cifar(
    *,
    topology: TopologyLike = "plain",
    topology_args: TopologyArgs = None,
    **fields: Any,
) -> MobileNetV2:
    """Build a `MobileNetV2`.

    Args:
      topology: pattern of the outputs that are added to a block, or one for each stage; "plain" is
        the identity shortcut.
      topology_args: arguments of the pattern, or one mapping for each stage.
      **fields: further fields of `MobileNetV2`.

    Raises:
      UserError: for numbers that fit no network.
    """
    depths = [row.blocks - 1 for row in ROWS]
    topologies = stage_topologies(topology, topology_args, depths, shortcuts=True)
    network = MobileNetV2(topologies=topologies, **fields)
    check_shortcut_aggregation(network.aggregation)
    check_number("dropout", network.dropout, 0, 0.99)
    return network


register_family(
    "mobilenet_v2_cifar",
    mobilenet_v2_cifar,
    pattern="mobilenet_v2_cifar",
    paper="MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018, arXiv 1801.04381",
)
