r"""Wide ResNet on pre-activation blocks, and DSWRN, the same with dense shortcuts.

Papers: Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, arXiv 1605.07146, and Zhang et
al., "ResNet or DenseNet? Introducing Dense Shortcuts to ResNet", WACV 2021, arXiv 2010.12496.

    WRN     y_l = F_l(y_{l-1}) + y_{l-1}
    DSWRN   y_l = F_l(y_{l-1}) + sum_{i<l} W[l, i] N(y_i)

    x --BN-ReLU-+-conv3x3-BN-ReLU-conv3x3-(+)-- y_0 --F_1--(+)-- y_1 --F_2--(+)-- y_2
                 \-conv1x1----------------/       \---------/      \---------/

Three stages of widths 16k, 32k, 64k with (depth - 4) / 6 blocks each. The block that opens a stage
projects its pre-activated input, as in the authors' code; where the width stays, as in the first
stage of WRN-d-1, the input itself is its shortcut. There is no DS2 variant: inner shortcuts go
around the 3x3 convolution of a bottleneck, which F does not have.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from flax import linen as nn

from aggnets_jax.arguments import check_number, check_whole_number, layers_in_depth
from aggnets_jax.connectivity.topology import Topology, TopologyArgs, TopologyLike, stage_topologies
from aggnets_jax.layers import common, regularisation
from aggnets_jax.layers.shortcuts import Shortcuts
from aggnets_jax.models.dsnet import DENSE_SHORTCUTS, DSNET
from aggnets_jax.models.network import Endpoints, Network
from aggnets_jax.models.registry import register_family


class WideBlock(nn.Module):
    """F: BN-ReLU-conv3x3(width, stride)-BN-ReLU-dropout-conv3x3(width).

    Attributes:
      width: channels of both convolutions.
      stride: stride of the first.
      norm: makes batch normalisations.
      conv: makes convolutions.
      dropout: makes the dropout between the convolutions.
      regularise: makes the function of F, but not of the block's own shortcut.
      opening: whether the block adds its own shortcut, projected if the shape changes.
    """

    width: int
    stride: int
    norm: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]
    dropout: Callable[[], nn.Module]
    regularise: Callable[[], Callable[[jax.Array], jax.Array]]
    opening: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> [batch, height / stride, width / stride, width]."""
        read = nn.relu(self.norm(name="norm1")(x))
        residual = self.conv(self.width, 3, stride=self.stride, name="conv1")(read)
        residual = self.dropout()(nn.relu(self.norm(name="norm2")(residual)))
        residual = self.regularise()(self.conv(self.width, 3, name="conv2")(residual))
        if not self.opening:
            return residual
        if residual.shape != x.shape:
            x = self.conv(self.width, 1, stride=self.stride, name="projection")(read)
        return residual + x


class WideResNet(Network):
    """Stem conv3x3(16), three stages of `WideBlock`, BN-ReLU, head.

    Attributes:
      topologies: topology of the blocks after the first, for each stage.
      widening: k; the stages have 16k, 32k, 64k channels.
      shortcuts: shortcuts that are added to F.
      dropout: probability of dropping a value between the convolutions of a block.
      stochastic_depth: probability of dropping an image's F in the last block; it rises from 0 with
        the blocks.
      dynamic_regularisation: whether F is scaled by random numbers in training; it changes nothing
        unless `config.strength` is set.
      branch_scale: A, the mean of these random numbers, which scales F in evaluation.
    """

    topologies: tuple[Topology, ...]
    widening: int
    shortcuts: Shortcuts
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    dynamic_regularisation: bool = False
    branch_scale: float = 1.0

    def _features(
        self, x: jax.Array, endpoints: Endpoints, norm: common.Norm, conv: common.Conv, train: bool
    ) -> jax.Array:
        dropout = partial(nn.Dropout, self.dropout, deterministic=not train)
        blocks = sum(1 + topology.depth for topology in self.topologies)
        regularise = regularisation.regularised_branches(self, blocks, train=train)
        before = 0

        def block(number: int, *arguments: int, **keywords: Any) -> WideBlock:
            regularised = partial(regularise, number, "branch")
            return WideBlock(*arguments, norm, conv, dropout, regularised, **keywords)  # type: ignore[call-arg]

        x = conv(16, 3, name="stem_conv")(x)
        endpoints["stem"] = x
        for i, topology in enumerate(self.topologies, start=1):
            width, stride = 16 * self.widening * 2 ** (i - 1), 1 if i == 1 else 2
            x = block(before + 1, width, stride, opening=True, name=f"stage{i}_opening")(x)
            x = self.shortcuts.stage(
                x,
                topology,
                lambda layer, name, first=before + 1, width=width: block(
                    first + layer, width, 1, name=name
                ),
                activation=lambda y: y,
                train=train,
                execution=regularisation.execution_of_branches(self),
                kind=lambda layer: layer if self.stochastic_depth else None,
                name=f"stage{i}",
            )
            endpoints[f"stage{i}"] = x
            before += 1 + topology.depth

        return nn.relu(norm(name="head_norm")(x))


def wide_resnet(
    *,
    depth: int,
    widening: int,
    topology: TopologyLike = "plain",
    topology_args: TopologyArgs = None,
    aggregation: str = "sum",
    shortcut_norm: str = "group",
    shortcut_weights: bool = True,
    shortcut_sources: str = "outputs",
    **fields: Any,
) -> WideResNet:
    """Build a `WideResNet`.

    Args:
      depth: 6n + 4: three stages of n blocks.
      widening: k.
      topology: pattern of the outputs that are added to a block after the first, or one for each
        stage.
      topology_args: arguments of the pattern, or one mapping for each stage.
      aggregation: aggregation of shortcuts: "sum", "mean" or "normalised_sum" (DSWRN).
      shortcut_norm: N of "normalised_sum": "group", "layer", "instance", "batch" or "none".
      shortcut_weights: whether the weights of "normalised_sum" are learnt.
      shortcut_sources: "outputs", or "blocks" for F alone.
      **fields: further fields of `WideResNet`.

    Raises:
      UserError: for a depth that is not 6n + 4, and other numbers that fit no network.
    """
    check_whole_number("depth", depth, 1)
    check_whole_number("widening", widening, 1)
    n = layers_in_depth(depth, 6, 4)
    network = WideResNet(
        topologies=stage_topologies(topology, topology_args, (n - 1,) * 3, shortcuts=True),
        widening=widening,
        shortcuts=Shortcuts(aggregation, shortcut_norm, shortcut_weights, shortcut_sources),
        **fields,
    )
    check_number("dropout", network.dropout, 0, 0.99)
    regularisation.check_branches(network)
    return network


for _name, _fields, _paper in [
    ("wrn", {}, "Wide Residual Networks, BMVC 2016, arXiv 1605.07146"),
    ("dswrn", DENSE_SHORTCUTS, DSNET),
]:
    register_family(
        _name,
        partial(wide_resnet, **_fields),
        pattern=rf"{_name}(?P<depth>\d+)_(?P<widening>\d+)",
        paper=_paper,
    )
