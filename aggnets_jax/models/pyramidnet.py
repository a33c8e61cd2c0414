"""PyramidNet: blocks that widen by the same step all along the network.

Paper: Han et al., "Deep Pyramidal Residual Networks", CVPR 2017, arXiv 1610.02915.

    x_k = pad(x_{k-1}) + F_k(x_{k-1}),   D_k = floor(16 + k alpha / N) channels, k = 1..N   (eq. 3)

                 |<---- D_k ---->|
    x_{k-1} --+--[zeros appended]--(+)-- x_k
              |                     |
              +---------F_k---------+

F_k is BN-conv3x3-BN-ReLU-conv3x3-BN, or as a bottleneck BN-conv1x1-BN-ReLU-conv3x3-BN-ReLU-
conv1x1-BN to 4 D_k channels. The first blocks of the second and third stage halve the resolution,
with a 2x2 average in the shortcut; they are `stage2_opening` and `stage3_opening`.

Where the reference code (github.com/jhkim89/PyramidNet) and the paper differ: the code rounds D_k
to the nearest whole number, eq. 3 rounds down. Rounded down, all printed sizes agree, except those
of alpha = 270, where no D_k has to be rounded.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from flax import linen as nn

from aggnets_jax.arguments import check_whole_number, known_depth, layers_in_depth
from aggnets_jax.connectivity.aggregation import check_aggregation
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import Topology, TopologyArgs, TopologyLike, stage_topologies
from aggnets_jax.errors import UserError
from aggnets_jax.layers import common, regularisation
from aggnets_jax.layers.pyramid_blocks import (
    Block,
    PyramidBlock,
    average_halves,
    joined,
)
from aggnets_jax.models.network import Endpoints, Network
from aggnets_jax.models.registry import IMAGENET, register_family


class PyramidNet(Network):
    """Stem conv3x3-BN, residual stages of ever wider blocks, BN-ReLU, average, classifier.

    Attributes:
      shortcut_topologies: topology of each stage, without the block that opens the second or a
        later stage.
      widths: channels of each block's output.
      stem_features: channels of the stem.
      block: makes the units.
      aggregation: aggregation of the outputs that a shortcut reads: "padded_sum"; "sum" and "mean"
        fit stages of one width only.
      imagenet_stem: conv7x7/2-BN-ReLU-maxpool3x3/2 in the place of conv3x3-BN.
      stochastic_depth: probability of dropping an image's F in the last block; it rises from 0 with
        the blocks.
      dynamic_regularisation: whether F is scaled by random numbers in training; it changes nothing
        unless `config.strength` is set.
      branch_scale: A, the mean of these random numbers, which scales F in evaluation.
    """

    shortcut_topologies: tuple[Topology, ...]
    widths: tuple[int, ...]
    stem_features: int
    block: Block
    aggregation: str = "padded_sum"
    imagenet_stem: bool = False
    stochastic_depth: float = 0.0
    dynamic_regularisation: bool = False
    branch_scale: float = 1.0

    @property
    def topologies(self) -> tuple[Topology, ...]:
        """The topologies of the stages, then the topologies within the blocks."""
        return self.shortcut_topologies + self.block.topologies * len(self.widths)

    def _features(
        self, x: jax.Array, endpoints: Endpoints, norm: common.Norm, conv: common.Conv, train: bool
    ) -> jax.Array:
        block = partial(self.block, norm=norm, conv=conv)
        regularise = regularisation.regularised_branches(self, len(self.widths), train=train)
        before = 0

        def layer(number: int, stride: int, name: str) -> Callable[..., jax.Array]:
            unit = block(self.widths[number - 1], stride=stride, name=name)
            regularised = regularise(number, name)
            return joined(lambda x: regularised(unit(x)))

        x = endpoints["stem"] = self._stem(x, norm, conv)
        for i, topology in enumerate(self.shortcut_topologies, start=1):
            if i > 1:
                before += 1
                x = layer(before, 2, f"stage{i}_opening")(x, average_halves(x))
            x = Stage(
                topology,
                unit=lambda number, name, before=before: layer(before + number, 1, name),
                aggregation=self.aggregation,
                shortcuts=True,
                execution=regularisation.execution_of_branches(self),
                name=f"stage{i}",
            )(x)
            before += topology.depth
            endpoints[f"stage{i}"] = x

        return nn.relu(norm(name="head_norm")(x))

    def _stem(
        self, x: jax.Array, norm: Callable[..., nn.Module], conv: Callable[..., nn.Module]
    ) -> jax.Array:
        if self.imagenet_stem:
            return common.imagenet_stem(x, self.stem_features, norm=norm, conv=conv)
        return norm(name="stem_norm")(conv(self.stem_features, 3, name="stem_conv")(x))


def pyramidnet(
    *,
    depth: int,
    alpha: int,
    bottleneck: bool,
    imagenet_stem: bool = False,
    topology: TopologyLike = "plain",
    topology_args: TopologyArgs = None,
    **fields: Any,
) -> PyramidNet:
    """Build a `PyramidNet` from the numbers in its name.

    Args:
      depth: 6n + 2, 9n + 2 with bottlenecks: three stages of n blocks, the stem and the classifier;
        with `imagenet_stem` 50, 101, 152 or 200.
      alpha: channels that the last block has more than the stem (a quarter, with bottlenecks).
      bottleneck: whether units are bottlenecks.
      imagenet_stem: whether for large images; the stem has 64 channels rather than 16.
      topology: pattern of the outputs that are added to a block, or one for each stage; "plain" is
        the identity shortcut.
      topology_args: arguments of the pattern, or one mapping for each stage.
      **fields: further fields of `PyramidNet`.

    Raises:
      UserError: for numbers that fit no network.
    """
    check_whole_number("depth", depth, 0)
    check_whole_number("alpha", alpha, 0)
    if imagenet_stem and not bottleneck:
        raise UserError("networks for ImageNet need bottlenecks")
    if imagenet_stem:
        blocks = known_depth(depth, IMAGENET_DEPTHS)
    else:
        blocks = (layers_in_depth(depth, 9 if bottleneck else 6, 2),) * 3
    stem_features, expansion = 64 if imagenet_stem else 16, 4 if bottleneck else 1
    widths = linear_widths(stem_features, alpha, sum(blocks))
    return checked(
        PyramidNet(
            shortcut_topologies=make_shortcut_topologies(topology, topology_args, blocks),
            widths=tuple(expansion * width for width in widths),
            stem_features=stem_features,
            block=PyramidBlock(bottleneck),
            imagenet_stem=imagenet_stem,
            **fields,
        )
    )


def linear_widths(first: int, alpha: int, blocks: int) -> tuple[int, ...]:
    """Return widths first + k alpha / blocks of the blocks k = 1, 2, ..., rounded down."""
    return tuple((first * blocks + k * alpha) // blocks for k in range(1, blocks + 1))


def make_shortcut_topologies(
    topology: TopologyLike, topology_args: TopologyArgs, blocks: Sequence[int]
) -> tuple[Topology, ...]:
    """Return the topologies of a `PyramidNet`, where a block opens each stage but the first."""
    depths = [n if i == 0 else n - 1 for i, n in enumerate(blocks)]
    return stage_topologies(topology, topology_args, depths, shortcuts=True)


def checked(network: PyramidNet) -> PyramidNet:
    """Return a network, or raise `UserError` for a field that is out of range."""
    check_shortcut_aggregation(network.aggregation)
    regularisation.check_branches(network)
    return network


def check_shortcut_aggregation(aggregation: str) -> None:
    """Raise `UserError` for an aggregation that can't be added to a block's output."""
    because = "a shortcut is added to the output of a block, which must not be narrower"
    check_aggregation(aggregation, ("padded_sum", "sum", "mean"), because)


IMAGENET_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
_NUMBERS = r"(?P<depth>\d+)_a(?P<alpha>\d+)"

for _name, _fields, _registered in [
    ("pyramidnet", {"bottleneck": False}, {}),
    ("pyramidnet_bottleneck", {"bottleneck": True}, {}),
    ("pyramidnet_imagenet", {"bottleneck": True, "imagenet_stem": True}, IMAGENET),
]:
    register_family(
        _name,
        partial(pyramidnet, **_fields),
        pattern=_name + _NUMBERS,
        paper="Deep Pyramidal Residual Networks, CVPR 2017, arXiv 1610.02915",
        **_registered,
    )
