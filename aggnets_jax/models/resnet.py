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
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict
from jax.typing import DTypeLike

from aggnets_jax.arguments import check_number, check_whole_number, choose
from aggnets_jax.connectivity.aggregation import pad_channels
from aggnets_jax.connectivity.execution import Execution
from aggnets_jax.connectivity.topology import Topology, TopologyArgs, stage_topologies
from aggnets_jax.errors import UserError
from aggnets_jax.layers import common
from aggnets_jax.layers.attention import ATTENTIONS
from aggnets_jax.layers.residual_blocks import (
    BASIC_BLOCKS,
    Projection,
    block_numbers,
    choose_block,
    has_bottleneck_options,
)
from aggnets_jax.layers.shortcuts import NormalisedShortcut, Shortcuts
from aggnets_jax.models.registry import Printed, register_family


class ResNet(nn.Module):
    """Stem, stages of residual blocks, head.

    Attributes:
      num_classes: size of the logits.
      shortcut_topologies: of the blocks behind the first, one for each stage.
      block: the class of F, such as `BasicBlock`.
      block_options: what blocks are given beyond width, stride, norm, conv and attention.
      width: channels of the stem; F has this width in the first stage, doubled in each later one.
      shortcuts: what is added to F, and within F.
      attention: "se" or "cbam", by which F scales what it computed, if given.
      imagenet_stem: conv7x7/2-BN-ReLU-maxpool3x3/2 in the place of conv3x3-BN-ReLU.
      padded: whether the shortcut of a block that opens a stage takes every stride-th position and
        is padded with zeros, rather than projected (option A of the paper, not B).
      stochastic_depth: probability of dropping an image's F in the last block, see
        `common.stochastic_depth`.
      dtype: in which to compute.
      execution: of the stages.
    """

    num_classes: int
    shortcut_topologies: tuple[Topology, ...]
    block: type[nn.Module]
    block_options: Mapping[str, Any]
    width: int
    shortcuts: Shortcuts = Shortcuts()
    attention: str | None = None
    imagenet_stem: bool = False
    padded: bool = False
    stochastic_depth: float = 0.0
    dtype: DTypeLike = jnp.float32
    execution: Execution = Execution()

    @property
    def topologies(self) -> tuple[Topology, ...]:
        """Those of the stages, then those inside of their blocks behind the first, if any."""
        within = self.block_options.get("topology")
        blocks = 0 if within is None else sum(t.depth for t in self.shortcut_topologies)
        return (*self.shortcut_topologies, *[within] * blocks)

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Classifies images; see `SparseNet.__call__` for arguments, results and endpoints."""
        norm = common.batch_norm(train=train, dtype=self.dtype)
        conv = partial(common.conv, dtype=self.dtype)
        block = self._block(norm, conv, train)
        before, endpoints = 0, {}

        x = jnp.asarray(images, self.dtype)
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
                x = pad_channels(x[:, ::stride, ::stride], features)
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
                execution=self.execution,
                kind=lambda layer: layer if self.stochastic_depth else None,
                name=f"stage{i}",
            )
            endpoints[f"stage{i}"] = x
            before += 1 + topology.depth

        return common.classify(x, endpoints, self.num_classes, dtype=self.dtype)

    def _block(
        self, norm: Callable[..., nn.Module], conv: Callable[..., nn.Module], train: bool
    ) -> Callable[..., Callable[[jax.Array], jax.Array]]:
        """Makes F of block 1, 2, ... of the network, of some width and stride."""
        block = partial(self.block, norm=norm, conv=conv, **self.block_options)
        if self.attention is not None:
            block = partial(block, attention=ATTENTIONS[self.attention](norm, conv, self.dtype))
        if self.shortcuts.inner:
            made = self.shortcuts.make_norm(train=train)
            block = partial(
                block,
                inner_shortcut=partial(NormalisedShortcut, made, self.shortcuts.weighted),
            )
        blocks = sum(1 + topology.depth for topology in self.shortcut_topologies)
        drop = common.stochastic_depth(self.stochastic_depth, blocks, train=train)

        def regularised(number: int, width: int, stride: int, name: str) -> Callable:
            unit, dropout = block(width, stride, name=name), drop(number)
            return lambda x: dropout(unit(x))

        return regularised


def residual_network(
    block: type[nn.Module],
    block_options: Mapping[str, Any],
    *,
    num_classes: int,
    stage_depths: Sequence[int],
    width: int,
    topology: str | Sequence[str],
    topology_args: TopologyArgs,
    shortcuts: Shortcuts,
    attention: str | None,
    imagenet_stem: bool,
    padded: bool = False,
    stochastic_depth: float = 0.0,
    dtype: DTypeLike,
) -> ResNet:
    """Builds a network of any block; see `resnet`.

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
    check_number("stochastic_depth", stochastic_depth, 0, 0.99)
    if attention is not None:
        choose("attention", ATTENTIONS, attention)
    return ResNet(
        num_classes,
        stage_topologies(topology, topology_args, [n - 1 for n in stage_depths], shortcuts=True),
        block,
        FrozenDict(block_options),  # which has a hash
        features,
        shortcuts,
        attention,
        imagenet_stem,
        padded,
        stochastic_depth,
        dtype,
    )


def resnet(
    *,
    num_classes: int,
    depth: int | None = None,
    stages: int = 4,
    stage_depths: Sequence[int] | None = None,
    block: str | None = None,
    width: int = 100,
    groups: int = 1,
    base_width: int = 64,
    imagenet_stem: bool,
    topology: str | Sequence[str] = "plain",
    topology_args: TopologyArgs = None,
    aggregation: str = "sum",
    shortcut_norm: str = "group",
    shortcut_weights: bool = True,
    shortcut_sources: str = "outputs",
    inner_shortcuts: bool = False,
    attention: str | None = None,
    padded: bool = False,
    stochastic_depth: float = 0.0,
    dtype: DTypeLike = jnp.float32,
) -> ResNet:
    """Builds a network of this file.

    Args:
      num_classes: size of the logits.
      depth: see the top of this file; needed without `stage_depths`.
      stages: 4, or 3 of equal depth.
      stage_depths: blocks of each stage, the first of which opens it; default from `depth`.
      block: "basic" or "bottleneck"; default from `depth`, which it must not contradict.
      width: of all blocks and the stem, in percent of the paper's.
      groups: of the 3x3 convolutions of bottlenecks (ResNeXt).
      base_width: width of each group in the first stage.
      imagenet_stem: whether for large images.
      topology: whose outputs are added to that of a block behind the first, or one for each stage.
      topology_args: arguments of the pattern, or one mapping for each stage.
      aggregation: of shortcuts: "sum", "mean" or "normalised_sum" (DSNet).
      shortcut_norm: N of the last, see `shortcuts.NORMS`.
      shortcut_weights: whether its weights are learnt.
      shortcut_sources: "outputs", or "blocks" for what F computed.
      inner_shortcuts: whether N adds the 3x3 convolution's input to its output (DS2Net).
      attention: "se" or "cbam", by which blocks scale what they computed.
      padded: see `ResNet`.
      stochastic_depth: see `ResNet`.
      dtype: in which to compute.

    Raises:
      UserError: for numbers that fit no network.
    """
    if block is not None:
        possible = (block,)
    else:
        block = "basic" if stages == 4 and depth in BASIC_BLOCKS else "bottleneck"
        options = has_bottleneck_options(groups, base_width, inner_shortcuts)
        possible = ("bottleneck",) if options else ("basic", "bottleneck")
    chosen = choose_block(block, groups, base_width, inner_shortcuts)
    if stage_depths is None:
        if depth is None:
            raise UserError("a network needs the argument 'depth', or 'stage_depths'")
        stage_depths = block_numbers(depth, stages, blocks=possible)
    return residual_network(
        *chosen,
        num_classes=num_classes,
        stage_depths=stage_depths,
        width=width,
        topology=topology,
        topology_args=topology_args,
        shortcuts=Shortcuts(
            aggregation, shortcut_norm, shortcut_weights, shortcut_sources, inner_shortcuts
        ),
        attention=attention,
        imagenet_stem=imagenet_stem,
        padded=padded,
        stochastic_depth=stochastic_depth,
        dtype=dtype,
    )


_RESNET = "Deep Residual Learning for Image Recognition, CVPR 2016, arXiv 1512.03385"
_RESNEXT = (
    "Aggregated Residual Transformations for Deep Neural Networks, CVPR 2017, arXiv 1611.05431"
)
_WIDE_RESNET = "Wide Residual Networks, BMVC 2016, arXiv 1605.07146"
_IMAGENET = {"input_shape": (224, 224, 3), "num_classes": 1000}
_LARGE, _SMALL = {"imagenet_stem": True}, {"imagenet_stem": False}

# Name, pattern, arguments, what else is registered, and paper of a family. The ImageNet networks
# come before those of three stages, as resnext101_32x8d would fit both.
_BACKBONES = [
    ("resnet", r"resnet(?P<depth>\d+)", _LARGE, _IMAGENET, _RESNET),
    ("resnet_cifar", r"resnet(?P<depth>\d+)_cifar_w(?P<width>\d+)", _SMALL, {}, _RESNET),
    (
        "resnext",
        r"resnext(?P<depth>50|101|152)_(?P<groups>\d+)x(?P<base_width>\d+)d",
        _LARGE,
        _IMAGENET,
        _RESNEXT,
    ),
    (
        "resnext_three_stages",
        r"resnext(?P<depth>\d+)_(?P<groups>\d+)x(?P<base_width>\d+)d",
        {**_SMALL, "stages": 3},
        {},
        _RESNEXT,
    ),
    (
        "resnext_cifar",
        r"resnext(?P<depth>\d+)_cifar_w(?P<width>\d+)",
        {**_SMALL, "groups": 32, "base_width": 4},
        {},
        _RESNEXT,
    ),
    (
        "wide_resnet",
        r"wide_resnet(?P<depth>\d+)_(?P<base_width>\d+)",
        _LARGE,
        {**_IMAGENET, "parse": {"base_width": lambda text: 64 * int(text)}},
        _WIDE_RESNET,
    ),
    (
        "wide_resnet_cifar",
        r"wide_resnet(?P<depth>\d+)_(?P<base_width>\d+)_cifar_w(?P<width>\d+)",
        _SMALL,
        {"parse": {"base_width": lambda text: 64 * int(text)}},
        _WIDE_RESNET,
    ),
]


def register_backbones(
    prefix: str,
    printed: Mapping[str, Printed],
    *,
    paper: str | None = None,
    **fields: Any,
) -> None:
    """Registers the families of this file, or others that differ from them in some arguments.

    Args:
      prefix: of the names, in the place of "res".
      printed: what papers print of the networks.
      paper: where the families come from; default that of each.
      **fields: arguments of `resnet` that all of them have.
    """
    for name, pattern, arguments, registered, source in _BACKBONES:
        register_family(
            name.replace("res", prefix),
            partial(resnet, **arguments, **fields),
            pattern=pattern.replace("res", prefix),
            paper=paper or source,
            printed=printed,
            **registered,
        )


# Of all networks the sizes and errors are those of "ResNet or DenseNet? Introducing Dense Shortcuts
# to ResNet" (see `dsnet.py`), where a table is not called by another paper's name.
_PRINTED = {
    name: Printed(table, params, errors, note=note)
    for name, table, params, errors, note in [
        ("resnet18", "ResNet, Table 1", None, {}, None),
        ("resnet34", "ResNet, Table 1", None, {}, None),
        ("resnet50", "Table 7", "25.6M", {"imagenet2012": 24.01}, None),
        ("resnet101", "Table 7", "44.6M", {"imagenet2012": 22.44}, "44.55M, rounded up"),
        ("resnet152", "Table 7", "60.2M", {"imagenet2012": 22.16}, None),
        ("resnext50_32x4d", "Table 7", "25M", {"imagenet2012": 22.2}, None),
        ("resnext101_32x8d", "ResNeXt, Table 1", None, {}, None),
        ("wide_resnet50_2", "Table 7", "69.8M", {"imagenet2012": 21.9}, "68.9M, its paper says"),
        ("wide_resnet101_2", "WRN, Section 3.3", None, {}, None),
        ("resnet26_cifar_w25", "Table 3", None, {"cifar100": 27.74}, None),
        ("resnet38_cifar_w25", "Table 3", None, {"cifar100": 27.26}, None),
        ("resnet50_cifar_w25", "Table 2", None, {"cifar10": 6.65, "cifar100": 26.13}, None),
        ("resnet50_cifar_w50", "Table 4", None, {"cifar100": 23.38}, None),
        ("resnet50_cifar_w100", "Table 2", None, {"cifar10": 4.82, "cifar100": 21.43}, None),
        ("resnet77_cifar_w25", "Table 3", None, {"cifar100": 25.32}, None),
        (
            "resnet101_cifar_w25",
            "Table 2",
            None,
            {"cifar10": 6.00, "cifar100": 25.00},
            "25.01 in Table 3",
        ),
        ("wide_resnet50_2_cifar_w25", "Table 4", None, {"cifar100": 23.51}, None),
        ("resnext50_cifar_w25", "Table 5", None, {"cifar100": 23.86}, None),
        ("resnext50_cifar_w50", "Table 5", None, {"cifar100": 21.16}, None),
        ("resnext50_cifar_w100", "Table 5", None, {"cifar100": 20.17}, None),
        ("resnext29_6x64d", "Table 6", None, {}, "printed with dense shortcuts only"),
        ("resnext29_8x64d", "Table 6", "34.4M", {"cifar100": 17.77}, "the size with 10 classes"),
        ("resnext29_16x64d", "Table 6", "68.1M", {"cifar100": 17.31}, "10 classes, cut off"),
    ]
}
register_backbones("res", _PRINTED)
