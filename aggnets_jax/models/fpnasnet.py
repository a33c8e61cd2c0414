"""FPNASNet: inverted residual blocks, some with a shortcut, some on a part of the channels only.

Paper: Cui et al., "Fast and Practical Neural Architecture Search", ICCV 2019 (the authors' network
for ImageNet; their networks for CIFAR of 1.7M and 5.7M parameters, which Micro-Dense's tables
quote, are not published).

    y_l = F_l(y_{l-1}) [+ y_{l-1}],  or with a split  y_l = shuffle([a || F_l(b) [+ b]])

Five lists define the 16 blocks: channels, expansion, stride, whether there is a shortcut, and
whether the first half of the channels bypasses the block. Where the width or the resolution
changes, a shortcut is conv1x1-BN, and the bypassing half is depthwise3x3-BN-ReLU-conv1x1-BN at
stride 2. There is no ReLU after sums. A stage consists of blocks of one width and resolution; the
first opens it.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from aggnets_jax.arguments import check_number
from aggnets_jax.connectivity.aggregation import check_aggregation
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import Topology, TopologyArgs, TopologyLike, stage_topologies
from aggnets_jax.layers import common
from aggnets_jax.layers.inverted_residual import InvertedResidual
from aggnets_jax.layers.residual_blocks import Projection
from aggnets_jax.models.network import Endpoints, Network
from aggnets_jax.models.registry import IMAGENET, register_family


class Row(NamedTuple):
    """A block: its channels, expansion, stride, and whether it has a shortcut and a split."""

    features: int
    expansion: int
    stride: int
    shortcut: int
    split: int


ROWS = tuple(
    map(
        Row,
        (24, 24, 40, 40, 40, 80, 80, 80, 80, 112, 112, 112, 192, 192, 192, 320),
        (4, 6, 8, 6, 8, 6, 8, 8, 8, 6, 6, 6, 4, 8, 4, 6),
        (2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1),
        (1, 1, 0, 1, 1, 1, 0, 1, 1, 0, 1, 0, 1, 0, 0, 0),
        (1, 0, 0, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 1, 0, 0),
    )
)


def _stages() -> Iterator[list[Row]]:
    stage: list[Row] = []
    for row in ROWS:
        if stage and (row.stride > 1 or row.features != stage[-1].features):
            yield stage
            stage = []
        stage.append(row)
    yield stage


STAGES = tuple(_stages())


class FPNASBlock(nn.Module):
    """The unit: F on all channels or on the second half, with or without a shortcut."""

    row: Row
    norm: common.Norm
    conv: common.Conv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same divided by the stride, `features` wide."""
        features, stride = self.row.features, self.row.stride
        if not self.row.split:
            return self._branch(x, features)
        left, right = jnp.split(x, [x.shape[-1] // 2], axis=-1)
        right = self._branch(right, features - left.shape[-1])
        if stride > 1:
            width = left.shape[-1]
            left = self.conv(width, 3, stride=stride, groups=width, name="left_depthwise_conv")(
                left
            )
            left = nn.relu(self.norm(name="left_depthwise_norm")(left))
            left = self.norm(name="left_norm")(self.conv(width, 1, name="left_conv")(left))
        return common.shuffle(jnp.concatenate([left, right], axis=-1), 2)

    def _branch(self, x: jax.Array, features: int) -> jax.Array:
        row, made = self.row, (self.norm, self.conv)
        y = InvertedResidual(features, row.expansion, row.stride, nn.relu, *made, name="branch")(x)
        if not row.shortcut:
            return y
        if y.shape != x.shape:
            x = Projection(features, row.stride, *made, name="projection")(x)
        return y + x


class FPNASNet(Network):
    """Stem, stages of `FPNASBlock`, conv1x1(1280)-BN-ReLU, head.

    Attributes:
      topologies: topology of each stage's blocks after its opening.
      aggregation: "sum" or "mean", of the outputs that a block reads.
      dropout: probability of dropping a feature before the classifier, 0.2 in the authors' code.
    """

    topologies: tuple[Topology, ...]
    aggregation: str = "sum"
    dropout: float = 0.0

    def _features(
        self, x: jax.Array, endpoints: Endpoints, norm: common.Norm, conv: common.Conv, train: bool
    ) -> jax.Array:
        x = conv(34, 3, stride=2, name="stem_conv1")(x)
        x = nn.relu(norm(name="stem_norm1")(x))
        x = nn.relu(norm(name="stem_norm2")(conv(34, 3, groups=34, name="stem_conv2")(x)))
        x = endpoints["stem"] = norm(name="stem_norm3")(conv(24, 1, name="stem_conv3")(x))
        for i, (rows, topology) in enumerate(zip(STAGES, self.topologies, strict=True), 1):
            x = FPNASBlock(rows[0], norm, conv, name=f"stage{i}_opening")(x)
            x = Stage(
                topology,
                unit=lambda layer, name, rows=rows: FPNASBlock(rows[layer], norm, conv, name=name),
                aggregation=self.aggregation,
                execution=self.execution,
                name=f"stage{i}",
            )(x)
            endpoints[f"stage{i}"] = x

        return nn.relu(norm(name="head_norm")(conv(1280, 1, name="head_conv")(x)))

    def _head(self, x: jax.Array, train: bool) -> dict[str, Any]:
        return {"dropout": nn.Dropout(self.dropout, deterministic=not train)}


def fpnasnet(
    *,
    topology: TopologyLike = "plain",
    topology_args: TopologyArgs = None,
    **fields: Any,
) -> FPNASNet:
    """Build an `FPNASNet`.

    Args:
      topology: pattern of the outputs that a block reads, or one for each stage.
      topology_args: arguments of the pattern, or one mapping for each stage.
      **fields: further fields of `FPNASNet`.

    Raises:
      UserError: for numbers that fit no network.
    """
    depths = [len(rows) - 1 for rows in STAGES]
    topologies = stage_topologies(topology, topology_args, depths, opened=True)
    network = FPNASNet(topologies=topologies, **fields)
    check_aggregation(network.aggregation, ("sum", "mean"), "a block keeps the width")
    check_number("dropout", network.dropout, 0, 0.99)
    return network


register_family(
    "fpnasnet",
    fpnasnet,
    pattern="fpnasnet",
    paper="Fast and Practical Neural Architecture Search, ICCV 2019",
    **IMAGENET,
)
