r"""ResNet, ResNeXt, Wide ResNet-50-2, and all that differs from them by shortcuts or blocks.

Papers: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385;
Xie et al., "Aggregated Residual Transformations for Deep Neural Networks", CVPR 2017, arXiv
1611.05431; Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, arXiv 1605.07146.

    y_l = ReLU(F_l(y_{l-1}) + y_{l-1})

    x --F--------(+)-ReLU-- y_0 --F_1--(+)-ReLU-- y_1 --F_2--(+)-ReLU-- y_2
     \-projection-/           \---------/           \---------/
       opening                   layer1                layer2

Each stage is opened by a block whose shortcut is projected to the width and the stride of the
stage; the others are a `Stage` with shortcuts, under any topology and aggregation of shortcuts
(see `shortcuts.py`, and `dsnet.py` for the networks that have them dense).

F is conv3x3-BN-ReLU-conv3x3-BN, or the bottleneck conv1x1-BN-ReLU-conv3x3-BN-ReLU-conv1x1-BN. As
in all common implementations the stride is on the 3x3, where the paper has it on the first 1x1.
Networks for small images have a 3x3 stem at stride 1 and no pooling.

Depths of bottleneck networks are 2 + 3 * blocks. They have stages of (3, 4, n, 3) blocks from 41
on, with the exceptions of He et al. (152, 200), and (n, n, n, n) below (14, 26, 38).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import jax
from flax import linen as nn
from flax.core import FrozenDict

from aggnets_jax.arguments import check_whole_number, choose
from aggnets_jax.connectivity.aggregation import pad_channels
from aggnets_jax.connectivity.topology import Topology, TopologyArgs, TopologyLike, stage_topologies
from aggnets_jax.errors import UserError
from aggnets_jax.layers import common, regularisation
from aggnets_jax.layers.attention import ATTENTIONS
from aggnets_jax.layers.pooling import subsample
from aggnets_jax.layers.residual_blocks import (
    BASIC_BLOCKS,
    Projection,
    block_numbers,
    choose_block,
    has_bottleneck_options,
)
from aggnets_jax.layers.shortcuts import NormalisedShortcut, Shortcuts
from aggnets_jax.models.network import Endpoints, Network


class ResNet(Network):
    """Stem, stages of residual blocks, head.

    Attributes:
      shortcut_topologies: topology of the blocks after the first, for each stage.
      block: class of F, such as `BasicBlock`.
      block_options: arguments of the blocks beyond width, stride, norm, conv and attention.
      width: channels of the stem; F has this width in the first stage, doubled in each later one.
      shortcuts: shortcuts that are added to F, and within F.
      attention: "se", "cbam", "forget_gate", "update_gate" or "gates", which scale F, or None.
      imagenet_stem: conv7x7/2-BN-ReLU-maxpool3x3/2 in the place of conv3x3-BN-ReLU.
      padded: whether the shortcut of a block that opens a stage takes every stride-th position and
        is padded with zeros, rather than projected (option A of the paper, not B).
      stochastic_depth: probability of dropping an image's F in the last block; it rises from 0 with
        the blocks.
      dynamic_regularisation: whether F is scaled by random numbers in training; it changes nothing
        unless `config.strength` is set.
      branch_scale: A, the mean of these random numbers, which scales F in evaluation.
    """

    shortcut_topologies: tuple[Topology, ...]
    block: type[nn.Module]
    block_options: Mapping[str, Any]
    width: int
    shortcuts: Shortcuts
    attention: str | None = None
    imagenet_stem: bool = False
    padded: bool = False
    stochastic_depth: float = 0.0
    dynamic_regularisation: bool = False
    branch_scale: float = 1.0

    @property
    def topologies(self) -> tuple[Topology, ...]:
        """The topologies of the stages, then the topologies within their blocks."""
        blocks = sum(topology.depth for topology in self.shortcut_topologies)
        if micro_dense := self.block_options.get("block"):
            blocks += len(self.shortcut_topologies)
            return self.shortcut_topologies + micro_dense.topologies * blocks
        # Blocks of Res2Net that open a stage have no topology.
        within = self.block_options.get("topology")
        return self.shortcut_topologies + (() if within is None else (within,) * blocks)

    def _features(
        self, x: jax.Array, endpoints: Endpoints, norm: common.Norm, conv: common.Conv, train: bool
    ) -> jax.Array:
        block = self._block(norm, conv, train)
        before = 0

        if self.imagenet_stem:
            x = common.imagenet_stem(x, self.width, norm=norm, conv=conv)
        else:
            x = nn.relu(norm(name="stem_norm")(conv(self.width, 3, name="stem_conv")(x)))
        endpoints["stem"] = x

        for i, topology in enumerate(self.shortcut_topologies, start=1):
            width, stride = self.width * 2 ** (i - 1), 1 if i == 1 else 2
            residual = block(before + 1, width, stride, name=f"stage{i}_opening")(x)
            features = residual.shape[-1]
            if self.padded:
                x = pad_channels(subsample(x, stride), features)
            elif residual.shape != x.shape:
                x = Projection(features, stride, norm, conv, name=f"stage{i}_projection")(x)
            x = self.shortcuts.stage(
                nn.relu(residual + x),
                topology,
                lambda layer, name, first=before + 1, width=width: block(
                    first + layer, width, 1, name=name
                ),
                activation=nn.relu,
                train=train,
                execution=regularisation.execution_of_branches(self),
                kind=lambda layer: layer if self.stochastic_depth else None,
                name=f"stage{i}",
            )
            endpoints[f"stage{i}"] = x
            before += 1 + topology.depth

        return x

    def _block(self, norm: common.Norm, conv: common.Conv, train: bool) -> Callable[..., Any]:
        """Return a function that makes F of block 1, 2, ... of the network."""
        block = partial(self.block, norm=norm, conv=conv, **self.block_options)
        if self.attention is not None:
            block = partial(block, attention=ATTENTIONS[self.attention](norm, conv, self.dtype))
        if self.shortcuts.inner:
            inner_norm = self.shortcuts.make_norm(train=train)
            inner = partial(NormalisedShortcut, inner_norm, self.shortcuts.weighted)
            block = partial(block, inner_shortcut=inner)
        blocks = sum(1 + topology.depth for topology in self.shortcut_topologies)
        regularise = regularisation.regularised_branches(self, blocks, train=train)

        def branch(number: int, width: int, stride: int, name: str) -> Callable:
            unit, regularised = block(width, stride, name=name), regularise(number, name)
            return lambda x: regularised(unit(x))

        return branch


def residual_network(
    block: type[nn.Module],
    block_options: Mapping[str, Any],
    *,
    stage_depths: Sequence[int],
    inner_shortcuts: bool,
    width: int = 100,
    topology: TopologyLike = "plain",
    topology_args: TopologyArgs = None,
    aggregation: str = "sum",
    shortcut_norm: str = "group",
    shortcut_weights: bool = True,
    shortcut_sources: str = "outputs",
    **fields: Any,
) -> ResNet:
    """Build a `ResNet` of any block.

    Args:
      block: see `ResNet`, as `block_options`.
      block_options: arguments of the blocks.
      stage_depths: blocks of each stage, the first of which opens it.
      inner_shortcuts: whether N adds the 3x3 convolution's input to its output (DS2Net).
      width: width of all blocks and the stem, in percent of the paper's.
      topology: pattern of the outputs that a block after the first adds, or one for each stage.
      topology_args: arguments of the pattern, or one mapping for each stage.
      aggregation: aggregation of shortcuts: "sum", "mean" or "normalised_sum" (DSNet).
      shortcut_norm: N of "normalised_sum": "group", "layer", "instance", "batch" or "none".
      shortcut_weights: whether the weights of "normalised_sum" are learnt.
      shortcut_sources: "outputs", or "blocks" for F alone.
      **fields: further fields of `ResNet`.

    Raises:
      UserError: for numbers that fit no network.
    """
    for blocks in stage_depths:
        check_whole_number("the number of blocks of a stage", blocks, 1)
    check_whole_number("width", width, 1)
    features, rest = divmod(64 * width, 100)
    if rest:
        nearest = max(25, 25 * round(width / 25))
        raise UserError(
            f"width {width} % of 64 channels is no whole number; allowed: multiples of 25,"
            f" nearest {nearest}"
        )
    depths = [n - 1 for n in stage_depths]
    options = (aggregation, shortcut_norm, shortcut_weights, shortcut_sources, inner_shortcuts)
    network = ResNet(
        shortcut_topologies=stage_topologies(topology, topology_args, depths, shortcuts=True),
        block=block,
        block_options=FrozenDict(block_options),  # which has a hash
        width=features,
        shortcuts=Shortcuts(*options),
        **fields,
    )
    regularisation.check_branches(network)
    if network.attention is not None:
        choose("attention", ATTENTIONS, network.attention)
    return network


def resnet(
    *,
    depth: int | None = None,
    stages: int = 4,
    stage_depths: Sequence[int] | None = None,
    block: str | None = None,
    groups: int = 1,
    base_width: int = 64,
    inner_shortcuts: bool = False,
    **fields: Annotated[Any, residual_network],
) -> ResNet:
    """Build a `ResNet` of basic blocks or bottlenecks.

    Args:
      depth: printed depth, such as 50 or 110; needed without `stage_depths`.
      stages: 4, or 3 of equal depth.
      stage_depths: blocks of each stage, the first of which opens it; default from `depth`.
      block: "basic" or "bottleneck"; default from `depth`, which it must not contradict.
      groups: groups of the 3x3 convolutions of bottlenecks (ResNeXt).
      base_width: width of each group in the first stage; of basic blocks the width, where 64 is the
        stem's (Wide ResNet-18).
      inner_shortcuts: whether N adds the 3x3 convolution's input to its output (DS2Net).
      **fields: further arguments of `residual_network`.

    Raises:
      UserError: for numbers that fit no network.
    """
    if block is not None:
        possible = (block,)
    else:
        block = "basic" if stages == 4 and depth in BASIC_BLOCKS else "bottleneck"
        options = has_bottleneck_options(groups, inner_shortcuts)
        possible = ("bottleneck",) if options else ("basic", "bottleneck")
    chosen = choose_block(block, groups, base_width, inner_shortcuts)
    if stage_depths is None:
        if depth is None:
            raise UserError("a network needs the argument 'depth', or 'stage_depths'")
        stage_depths = block_numbers(depth, stages, blocks=possible)
    fields = {"stage_depths": stage_depths, "inner_shortcuts": inner_shortcuts, **fields}
    return residual_network(*chosen, **fields)
