r"""HarDNet: few links, by the powers of two that divide a layer's number; layers of several widths.

Paper: Chao et al., "HarDNet: A Low Memory Traffic Network", ICCV 2019, arXiv 1909.00948.

    y_l = F_l(concat of y_{l - 2^i} for all i such that 2^i divides l)
    width of y_l: k * m^n, with n the largest i, rounded to an even number
    output of a block: concat of all y_l with odd l, and the last

    y_0 -- y_1 -- y_2 -- y_3 -- y_4        layer 2 reads 1, 0
     |\____________/ \____________/|        layer 4 reads 3, 2, 0
     \____________________________/

F_l is conv3x3-BN-ReLU6, or with `depthwise` conv1x1-BN-ReLU6-depthwise3x3-BN. Behind each block
comes conv1x1-BN-ReLU6. After some blocks the resolution is halved, by max pooling or by a depthwise
convolution at stride 2. The output of a block does not contain its input.

Where the paper and the reference code (https://github.com/PingoLH/Pytorch-HarDNet) differ: numbers
of layers and channels, and ReLU6 in the place of ReLU, follow the code. The code's dropouts are 0
here by default: before the classifier (0.1 in HarDNet-68, 0.2 in 85, 0.05 in the depthwise ones),
and in 85 before the last 1x1 convolution (0.1).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from flax import linen as nn

from aggnets_jax.arguments import check_number, check_whole_number, given_or, known_depth
from aggnets_jax.connectivity.aggregation import check_aggregation
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import (
    Topology,
    TopologyArgs,
    TopologyLike,
    per_stage,
    stage_topologies,
)
from aggnets_jax.layers import common
from aggnets_jax.layers.pooling import max_pool
from aggnets_jax.models.network import Endpoints, Network
from aggnets_jax.models.registry import IMAGENET, register_family


class ConvNorm(nn.Module):
    """Convolution-BN-ReLU6."""

    features: int
    kernel_size: int
    stride: int
    norm: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same divided by the stride, `features` wide."""
        x = self.conv(self.features, self.kernel_size, stride=self.stride, name="conv")(x)
        return nn.relu6(self.norm(name="norm")(x))


class DepthwiseNorm(nn.Module):
    """Depthwise 3x3 convolution-BN, without an activation."""

    stride: int
    norm: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same divided by the stride."""
        channels = x.shape[-1]
        x = self.conv(channels, 3, stride=self.stride, groups=channels, name="conv")(x)
        return self.norm(name="norm")(x)


class SeparableConvNorm(nn.Module):
    """Conv1x1-BN-ReLU6 to the channels of the output, then depthwise 3x3-BN."""

    features: int
    norm: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> [batch, height, width, features]."""
        x = ConvNorm(self.features, 1, 1, self.norm, self.conv, name="pointwise")(x)
        return DepthwiseNorm(1, self.norm, self.conv, name="depthwise")(x)


def layer_width(layer: int, growth_rate: int, multiplier: float) -> int:
    """Return the channels of a layer's output, k * m^n to an even number; 2^n divides `layer`."""
    powers = (layer & -layer).bit_length() - 1
    return int(growth_rate * multiplier**powers + 1) // 2 * 2


class HarDNet(Network):
    """Stem, blocks with a 1x1 convolution after each, head.

    Attributes:
      topologies: topology of each block.
      growth_rates: k of each block.
      features: channels after each block.
      downsampled: whether the resolution is halved after each block.
      stem_features: channels of the two convolutions of the stem.
      multiplier: m.
      depthwise: whether 3x3 convolutions in blocks are depthwise separable.
      aggregation: "concat" or "padded_sum".
      dropout: probability of dropping a feature before the classifier.
      map_dropout: probability of dropping a value before the last 1x1 convolution.
    """

    topologies: tuple[Topology, ...]
    growth_rates: tuple[int, ...]
    features: tuple[int, ...]
    downsampled: tuple[bool, ...]
    stem_features: tuple[int, int]
    multiplier: float
    depthwise: bool = False
    aggregation: str = "concat"
    dropout: float = 0.0
    map_dropout: float = 0.0

    def _features(
        self, x: jax.Array, endpoints: Endpoints, norm: common.Norm, conv: common.Conv, train: bool
    ) -> jax.Array:
        conv = partial(conv, kernel_init=common.uniform_fan_in)
        parts = {"norm": norm, "conv": conv}
        unit = SeparableConvNorm if self.depthwise else partial(ConvNorm, kernel_size=3, stride=1)

        def halve(x: jax.Array, window: int, name: str) -> jax.Array:
            if self.depthwise:
                return DepthwiseNorm(2, **parts, name=name)(x)
            pad = (window - 1) // 2
            return max_pool(x, (window, window), (2, 2), ((pad, pad), (pad, pad)))

        x = ConvNorm(self.stem_features[0], 3, 2, **parts, name="stem1")(x)
        kernel_size = 1 if self.depthwise else 3
        x = ConvNorm(self.stem_features[1], kernel_size, 1, **parts, name="stem2")(x)
        x = halve(x, 3, "stem_down")
        endpoints["stem"] = x

        blocks = zip(
            self.topologies, self.growth_rates, self.features, self.downsampled, strict=True
        )
        for i, (topology, growth_rate, features, downsampled) in enumerate(blocks, start=1):
            x = Stage(
                topology,
                unit=lambda layer, name, k=growth_rate: unit(
                    layer_width(layer, k, self.multiplier), **parts, name=name
                ),
                aggregation=self.aggregation,
                execution=self.execution,
                name=f"stage{i}",
            )(x)
            endpoints[f"stage{i}"] = x
            if i == len(self.topologies):
                x = nn.Dropout(self.map_dropout, deterministic=not train)(x)
            x = ConvNorm(features, 1, 1, **parts, name=f"transition{i}")(x)
            if downsampled:
                x = halve(x, 2, f"down{i}")
        return x

    def _head(self, x: jax.Array, train: bool) -> dict[str, Any]:
        return {
            "dropout": nn.Dropout(self.dropout, deterministic=not train),
            "bias_init": common.uniform_bias(x.shape[-1]),
        }


def hardnet(
    *,
    depth: int,
    stage_depths: Sequence[int] | None = None,
    growth_rate: int | Sequence[int] | None = None,
    features: int | Sequence[int] | None = None,
    downsampled: bool | Sequence[bool] | None = None,
    stem_features: int | Sequence[int] | None = None,
    multiplier: float | None = None,
    topology: TopologyLike = "harmonic",
    topology_args: TopologyArgs = None,
    **fields: Any,
) -> HarDNet:
    """Build a `HarDNet`.

    Args:
      depth: 39, 68 or 85, the default of the numbers below.
      stage_depths: layers of each block.
      growth_rate: k, or one for each block.
      features: channels after each block.
      downsampled: whether the resolution is halved after each block.
      stem_features: channels of the two convolutions of the stem.
      multiplier: m.
      topology: name of a pattern, or one for each block.
      topology_args: arguments of the pattern, or one mapping for each block.
      **fields: further fields of `HarDNet`.

    Raises:
      UserError: for numbers that fit no network.
    """
    stage_depths, growth_rate, features, downsampled, stem_features, multiplier = given_or(
        known_depth(depth, VARIANTS),
        *(stage_depths, growth_rate, features, downsampled, stem_features, multiplier),
    )
    blocks = len(stage_depths)
    growth_rates = per_stage("growth_rate", growth_rate, blocks)
    widths = per_stage("features", features, blocks)
    stem = per_stage("stem_features", stem_features, 2)
    for name, values in (("growth_rate", growth_rates), ("features", widths), ("stem", stem)):
        for value in values:
            check_whole_number(name, value, 1)
    check_number("multiplier", multiplier, 1, 4)
    network = HarDNet(
        topologies=stage_topologies(topology, topology_args, stage_depths),
        growth_rates=growth_rates,
        features=widths,
        downsampled=per_stage("downsampled", downsampled, blocks),
        stem_features=stem,
        multiplier=multiplier,
        **fields,
    )
    because = "the layers have several widths"
    check_aggregation(network.aggregation, ("concat", "padded_sum"), because)
    check_number("dropout", network.dropout, 0, 0.99)
    check_number("map_dropout", network.map_dropout, 0, 0.99)
    return network


# By depth: layers, k, channels after and whether to halve after each block; stem; m.
# fmt: off
VARIANTS = {
    39: ((4, 16, 8, 4), (16, 20, 64, 160), (96, 320, 640, 1024),
         (True, True, True, False), (24, 48), 1.6),
    68: ((8, 16, 16, 16, 4), (14, 16, 20, 40, 160), (128, 256, 320, 640, 1024),
         (True, False, True, True, False), (32, 64), 1.7),
    85: ((8, 16, 16, 16, 16, 4), (24, 24, 28, 36, 48, 256), (192, 256, 320, 480, 720, 1280),
         (True, False, True, False, True, False), (48, 96), 1.7),
}
# fmt: on

register_family(
    "hardnet",
    hardnet,
    pattern=r"hardnet(?P<depth>\d+)(?P<depthwise>ds)?",
    paper="HarDNet: A Low Memory Traffic Network, ICCV 2019, arXiv 1909.00948",
    parse={"depthwise": lambda text: text == "ds"},
    **IMAGENET,
)
