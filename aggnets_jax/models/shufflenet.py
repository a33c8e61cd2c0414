r"""ShuffleNetV2 for small images: half of the channels pass a unit unchanged; all are shuffled.

Paper: Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", ECCV
2018, arXiv 1807.11164 (Figure 3 c and d, Table 5).

    y_l = shuffle([a || F(b)])  for  [a || b] = y_{l-1}

    y -- split --+------------------------------ (||) -- shuffle -- y'
                  \-- 1x1 -- depthwise -- 1x1 --/

A stage is opened by a unit at stride 2, which computes on all channels in both branches; the others
are a `Stage`. Micro-Dense's table cites the first ShuffleNet, but prints the size of V2 at width
1.5x with 10 classes. For CIFAR the stem conv3x3(24)-BN-ReLU has stride 1 and no pooling after it.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from aggnets_jax.arguments import check_whole_number
from aggnets_jax.connectivity.aggregation import check_aggregation
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import Topology, TopologyArgs, TopologyLike, stage_topologies
from aggnets_jax.errors import UserError
from aggnets_jax.layers import common
from aggnets_jax.models.network import Endpoints, Network
from aggnets_jax.models.registry import register_family

STAGE_DEPTHS = (4, 8, 4)
WIDTHS = {100: (116, 232, 464), 150: (176, 352, 704)}
"""Channels of the stages by the width in percent (Table 5)."""


class ShuffleBranch(nn.Module):
    """[1x1-BN-ReLU,] depthwise3x3-BN, 1x1-BN-ReLU, all with `features` channels.

    Attributes:
      features: channels of the output.
      stride: stride of the depthwise convolution.
      expands: whether there is a first 1x1.
      norm: makes batch normalisations.
      conv: makes convolutions.
    """

    features: int
    stride: int
    expands: bool
    norm: common.Norm
    conv: common.Conv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same divided by the stride, `features` wide."""
        if self.expands:
            x = self.conv(self.features, 1, name="expand_conv")(x)
            x = nn.relu(self.norm(name="expand_norm")(x))
        width = x.shape[-1]
        x = self.conv(width, 3, stride=self.stride, groups=width, name="depthwise_conv")(x)
        x = self.norm(name="depthwise_norm")(x)
        return nn.relu(
            self.norm(name="project_norm")(self.conv(self.features, 1, name="project_conv")(x))
        )


class ShuffleUnit(nn.Module):
    """The unit: F on the right half of the channels; at stride 2 branches on all channels.

    Attributes:
      features: channels of the output.
      stride: 1 or 2.
      norm: makes batch normalisations.
      conv: makes convolutions.
    """

    features: int
    stride: int
    norm: common.Norm
    conv: common.Conv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same divided by the stride, `features` wide."""
        half = self.features // 2
        branch = partial(ShuffleBranch, half, self.stride, norm=self.norm, conv=self.conv)
        if self.stride == 1:
            left, right = jnp.split(x, 2, axis=-1)
        else:
            left, right = branch(expands=False, name="left")(x), x
        right = branch(expands=True, name="right")(right)
        return common.shuffle(jnp.concatenate([left, right], axis=-1), 2)


class ShuffleNetV2(Network):
    """Stem conv3x3(24), stages of `ShuffleUnit`, conv1x1(1024), with BN-ReLU each, head.

    Attributes:
      topologies: topology of each stage's units after its opening.
      widths: channels of each stage.
      aggregation: "sum" or "mean", of the outputs that a unit reads.
    """

    topologies: tuple[Topology, ...]
    widths: tuple[int, ...]
    aggregation: str = "sum"

    def _features(
        self, x: jax.Array, endpoints: Endpoints, norm: common.Norm, conv: common.Conv, train: bool
    ) -> jax.Array:
        x = conv(24, 3, name="stem_conv")(x)
        x = endpoints["stem"] = nn.relu(norm(name="stem_norm")(x))
        for i, (topology, width) in enumerate(zip(self.topologies, self.widths, strict=True), 1):
            unit = partial(ShuffleUnit, width, norm=norm, conv=conv)
            x = unit(stride=2, name=f"stage{i}_opening")(x)
            x = Stage(
                topology,
                unit=partial(unit, stride=1),
                aggregation=self.aggregation,
                execution=self.execution,
                kind=lambda layer: None,
                name=f"stage{i}",
            )(x)
            endpoints[f"stage{i}"] = x

        return nn.relu(norm(name="head_norm")(conv(1024, 1, name="head_conv")(x)))


def shufflenet_v2_cifar(
    *,
    width: int = 100,
    topology: TopologyLike = "plain",
    topology_args: TopologyArgs = None,
    **fields: Any,
) -> ShuffleNetV2:
    """Build a `ShuffleNetV2`.

    Args:
      width: 100 or 150, the paper's widths in percent.
      topology: name of a pattern, or one for each stage.
      topology_args: arguments of the pattern, or one mapping for each stage.
      **fields: further fields of `ShuffleNetV2`.

    Raises:
      UserError: for numbers that fit no network.
    """
    check_whole_number("width", width, 1)
    if width not in WIDTHS:
        nearest = min(WIDTHS, key=lambda each: abs(each - width))
        raise UserError(f"no network of width {width}; allowed: {[*WIDTHS]}, nearest {nearest}")
    depths = [units - 1 for units in STAGE_DEPTHS]
    topologies = stage_topologies(topology, topology_args, depths)
    network = ShuffleNetV2(topologies=topologies, widths=WIDTHS[width], **fields)
    check_aggregation(network.aggregation, ("sum", "mean"), "a unit keeps the width")
    return network


register_family(
    "shufflenet_v2_cifar",
    shufflenet_v2_cifar,
    pattern=r"shufflenet_v2_cifar_w(?P<width>\d+)",
    paper="ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, ECCV 2018,"
    " arXiv 1807.11164",
)
