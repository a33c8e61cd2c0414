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
to the nearest whole number. Rounded down as in eq. 3 all printed sizes come out, some of which are
rounded down, too, except those of alpha = 270, where there is nothing to round.
"""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from aggnets_jax.arguments import check_number, check_whole_number, layers_in_depth
from aggnets_jax.connectivity.aggregation import check_aggregation, pad_channels
from aggnets_jax.connectivity.execution import Execution
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import Topology, TopologyArgs, stage_topologies
from aggnets_jax.errors import UserError
from aggnets_jax.layers import common
from aggnets_jax.layers.regularisation import DynamicScale
from aggnets_jax.models.registry import Printed, register_family


class Basic(nn.Module):
    """The unit F: BN-conv3x3(stride)-BN-ReLU-conv3x3-BN.

    Attributes:
      features: channels of the output.
      stride: of the first convolution.
      norm: makes batch normalisations.
      conv: makes convolutions.
    """

    features: int
    stride: int
    norm: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same divided by the stride, `features` wide."""
        x = self.norm(name="norm1")(x)
        x = self.conv(self.features, 3, stride=self.stride, name="conv1")(x)
        x = self.conv(self.features, 3, name="conv2")(nn.relu(self.norm(name="norm2")(x)))
        return self.norm(name="norm3")(x)


class Bottleneck(nn.Module):
    """The unit F: BN-conv1x1-BN-ReLU-conv3x3(stride)-BN-ReLU-conv1x1(4 times as wide)-BN.

    Attributes:
      features: channels of the output, four times those inside.
      stride: of the 3x3 convolution.
      norm: makes batch normalisations.
      conv: makes convolutions.
    """

    features: int
    stride: int
    norm: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same divided by the stride, `features` wide."""
        width = self.features // 4
        x = self.conv(width, 1, name="conv1")(self.norm(name="norm1")(x))
        x = nn.relu(self.norm(name="norm2")(x))
        x = self.conv(width, 3, stride=self.stride, name="conv2")(x)
        x = nn.relu(self.norm(name="norm3")(x))
        return self.norm(name="norm4")(self.conv(self.features, 1, name="conv3")(x))


class Block(abc.ABC):
    """Makes the units F of a `PyramidNet`; blocks that make the same units are equal.

    Attributes:
      rectifies_sum: whether a ReLU follows the addition, and the stem; then no normalisation comes
        before the classifier.
      topologies: those within one block.
    """

    rectifies_sum: ClassVar[bool] = False
    topologies: tuple[Topology, ...] = ()

    @abc.abstractmethod
    def __call__(
        self,
        features: int,
        *,
        stride: int,
        norm: Callable[..., nn.Module],
        conv: Callable[..., nn.Module],
        name: str,
    ) -> nn.Module:
        """Makes F: [batch, height, width, channels] -> the same / stride, `features` wide."""


@dataclasses.dataclass(frozen=True)
class PyramidBlock(Block):
    """Makes `Bottleneck` or `Basic`."""

    bottleneck: bool

    def __call__(self, features: int, **arguments: Any) -> nn.Module:
        """See `Block`."""
        return (Bottleneck if self.bottleneck else Basic)(features, **arguments)


class PyramidNet(nn.Module):
    """Stem conv3x3-BN, residual stages of ever wider blocks, BN-ReLU, average, classifier.

    Attributes:
      num_classes: size of the logits.
      shortcut_topologies: of each stage, without the opening block of the second and later ones.
      widths: channels that each block puts out.
      stem_features: channels of the stem.
      block: makes the units.
      aggregation: of what a shortcut reads, see `pyramidnet`.
      imagenet_stem: conv7x7/2-BN-ReLU-maxpool3x3/2 in the place of conv3x3-BN.
      stochastic_depth: probability of dropping an image's F in the last block, see
        `common.stochastic_depth`.
      dynamic_regularisation: whether F is scaled by random numbers in training, see
        `regularisation.DynamicScale`.
      branch_scale: by which it is scaled in evaluation, and on average in training, if so.
      dtype: in which to compute.
      execution: of the stages.
    """

    num_classes: int
    shortcut_topologies: tuple[Topology, ...]
    widths: tuple[int, ...]
    stem_features: int
    block: Block
    aggregation: str = "padded_sum"
    imagenet_stem: bool = False
    stochastic_depth: float = 0.0
    dynamic_regularisation: bool = False
    branch_scale: float = 1.0
    dtype: DTypeLike = jnp.float32
    execution: Execution = Execution()

    @property
    def topologies(self) -> tuple[Topology, ...]:
        """Those of the stages, then those within the blocks."""
        return self.shortcut_topologies + self.block.topologies * len(self.widths)

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Classifies images; see `SparseNet.__call__` for arguments, results and endpoints."""
        norm = common.batch_norm(train=train, dtype=self.dtype)
        conv = partial(common.conv, dtype=self.dtype)
        block = partial(self.block, norm=norm, conv=conv)
        activation = nn.relu if self.block.rectifies_sum else _identity
        drop = common.stochastic_depth(self.stochastic_depth, len(self.widths), train=train)
        before, endpoints = 0, {}

        def layer(number: int, stride: int, name: str) -> Callable[..., jax.Array]:
            unit, dropout = block(self.widths[number - 1], stride=stride, name=name), drop(number)
            if not self.dynamic_regularisation:
                return joined(lambda x: dropout(unit(x)), activation)
            reach = number / len(self.widths)
            scale = DynamicScale(self.branch_scale, reach, train, name=f"{name}_scale")
            return joined(lambda x: scale(dropout(unit(x))), activation)

        x = endpoints["stem"] = self._stem(jnp.asarray(images, self.dtype), norm, conv)
        for i, topology in enumerate(self.shortcut_topologies, start=1):
            if i > 1:
                before += 1
                x = layer(before, 2, f"stage{i}_opening")(x, average_halves(x))
            x = Stage(
                topology,
                unit=lambda number, name, before=before: layer(before + number, 1, name),
                aggregation=self.aggregation,
                shortcuts=True,
                execution=self.execution,
                name=f"stage{i}",
            )(x)
            before += topology.depth
            endpoints[f"stage{i}"] = x

        if not self.block.rectifies_sum:
            x = nn.relu(norm(name="head_norm")(x))
        return common.classify(x, endpoints, self.num_classes, dtype=self.dtype)

    def _stem(
        self, x: jax.Array, norm: Callable[..., nn.Module], conv: Callable[..., nn.Module]
    ) -> jax.Array:
        if self.imagenet_stem:
            return common.imagenet_stem(x, self.stem_features, norm=norm, conv=conv)
        x = norm(name="stem_norm")(conv(self.stem_features, 3, name="stem_conv")(x))
        return nn.relu(x) if self.block.rectifies_sum else x


def _identity(x: jax.Array) -> jax.Array:
    return x


def joined(
    unit: Callable[[jax.Array], jax.Array], activation: Callable[[jax.Array], jax.Array] = _identity
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The layer activation(pad(shortcut) + unit(x)) of a stage with shortcuts."""

    def layer(x: jax.Array, shortcut: jax.Array) -> jax.Array:
        residual = unit(x)
        return activation(pad_channels(shortcut, residual.shape[-1]) + residual)

    return layer


def average_halves(x: jax.Array) -> jax.Array:
    """[batch, height, width, channels] -> half of both, by 2x2 averages."""
    if x.shape[1] % 2 or x.shape[2] % 2:
        raise UserError(
            f"a map of {x.shape[1]}x{x.shape[2]} can't be halved; allowed: even heights and widths,"
            " which images have all along whose own are multiples of 32"
        )
    return nn.avg_pool(x, (2, 2), strides=(2, 2))


IMAGENET_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}


def pyramidnet(
    *,
    num_classes: int,
    depth: int,
    alpha: int,
    bottleneck: bool,
    imagenet_stem: bool = False,
    topology: str | Sequence[str] = "plain",
    topology_args: TopologyArgs = None,
    aggregation: str = "padded_sum",
    stochastic_depth: float = 0.0,
    dynamic_regularisation: bool = False,
    branch_scale: float = 1.0,
    dtype: DTypeLike = jnp.float32,
) -> PyramidNet:
    """Builds a network of this file from the numbers in its name.

    Args:
      num_classes: size of the logits.
      depth: 6n + 2, 9n + 2 with bottlenecks: three stages of n blocks, the stem and the classifier;
        with `imagenet_stem` one of `IMAGENET_DEPTHS`.
      alpha: channels that the last block has more than the stem (a quarter, with bottlenecks).
      bottleneck: whether units are bottlenecks.
      imagenet_stem: whether for large images; the stem has 64 channels rather than 16.
      topology: which outputs a block adds to what it computes, one pattern or one for each stage;
        "plain" is the identity shortcut.
      topology_args: arguments of the pattern, or one mapping for each stage.
      aggregation: of those outputs: "padded_sum"; "sum" and "mean" fit stages of one width only.
      stochastic_depth: see `PyramidNet`, as the next two.
      dynamic_regularisation: changes nothing unless `config.strength` is set.
      branch_scale: A.
      dtype: in which to compute.

    Raises:
      UserError: for numbers that fit no network.
    """
    check_whole_number("depth", depth, 0)
    check_whole_number("alpha", alpha, 0)
    blocks = _blocks(depth, bottleneck, imagenet_stem)
    stem_features = 64 if imagenet_stem else 16
    expansion = 4 if bottleneck else 1
    return PyramidNet(
        num_classes=num_classes,
        shortcut_topologies=make_shortcut_topologies(topology, topology_args, blocks),
        widths=tuple(
            expansion * width for width in linear_widths(stem_features, alpha, sum(blocks))
        ),
        stem_features=stem_features,
        block=PyramidBlock(bottleneck),
        aggregation=checked_shortcut_aggregation(aggregation),
        imagenet_stem=imagenet_stem,
        **checked_regularisation(stochastic_depth, dynamic_regularisation, branch_scale),
        dtype=dtype,
    )


def _blocks(depth: int, bottleneck: bool, imagenet_stem: bool) -> tuple[int, ...]:
    """Blocks of each stage."""
    if imagenet_stem:
        if depth not in IMAGENET_DEPTHS or not bottleneck:
            raise UserError(
                f"no ImageNet network of depth {depth}; allowed: {[*IMAGENET_DEPTHS]}, bottlenecks"
            )
        return IMAGENET_DEPTHS[depth]
    n = layers_in_depth(depth, 9 if bottleneck else 6, 2)
    return (n, n, n)


def linear_widths(first: int, alpha: int, blocks: int) -> tuple[int, ...]:
    """Widths first + k alpha / blocks of the blocks k = 1, 2, ..., rounded down."""
    return tuple((first * blocks + k * alpha) // blocks for k in range(1, blocks + 1))


def make_shortcut_topologies(
    topology: str | Sequence[str], topology_args: TopologyArgs, blocks: Sequence[int]
) -> tuple[Topology, ...]:
    """Topologies of the stages of a `PyramidNet`, which all but the first begin by an opening."""
    depths = [n if i == 0 else n - 1 for i, n in enumerate(blocks)]
    return stage_topologies(topology, topology_args, depths, shortcuts=True)


def checked_regularisation(
    stochastic_depth: float, dynamic_regularisation: bool, branch_scale: float
) -> dict[str, Any]:
    """Returns them as fields of a `PyramidNet`, or raises `UserError` if they can't be."""
    check_number("stochastic_depth", stochastic_depth, 0, 0.99)
    check_number("branch_scale", branch_scale, 0.01, 100)
    if branch_scale != 1 and not dynamic_regularisation:
        raise UserError("branch_scale is of dynamic_regularisation, which is not set")
    return {
        "stochastic_depth": stochastic_depth,
        "dynamic_regularisation": dynamic_regularisation,
        "branch_scale": branch_scale,
    }


def checked_shortcut_aggregation(aggregation: str) -> str:
    """Returns it, or raises `UserError` if its result can't be added to a block's output."""
    because = "a shortcut is added to the output of a block, which must not be narrower"
    check_aggregation(aggregation, ("padded_sum", "sum", "mean"), because)
    return aggregation


_PAPER = "Deep Pyramidal Residual Networks, CVPR 2017, arXiv 1610.02915"
_DOWN = "the size is rounded down"
_DIFFERS = "the size does not come out"

# Table 4: parameters, top-1 error on CIFAR-10 and CIFAR-100. Sizes are those with 10 classes.
_CIFAR_PRINTED = {
    name: Printed("Table 4", params, {"cifar10": cifar10, "cifar100": cifar100}, note=note)
    for name, params, cifar10, cifar100, note in [
        ("pyramidnet110_a48", "1.7M", 4.58, 23.12, None),
        ("pyramidnet110_a84", "3.8M", 4.26, 20.66, _DOWN),
        ("pyramidnet110_a270", "28.3M", 3.73, 18.25, _DIFFERS),
        ("pyramidnet_bottleneck164_a270", "27.0M", 3.48, 17.01, _DIFFERS),
        ("pyramidnet_bottleneck200_a240", "26.6M", 3.44, 16.51, None),
        ("pyramidnet_bottleneck236_a220", "26.8M", 3.40, 16.37, None),
        ("pyramidnet_bottleneck272_a200", "26.0M", 3.31, 16.35, None),
    ]
}
_IMAGENET_PRINTED = {
    "pyramidnet_imagenet200_a300": Printed("Table 5", "62.1M", {"imagenet2012": 20.5}, note=_DOWN)
}

for _name, _bottleneck in [("pyramidnet", False), ("pyramidnet_bottleneck", True)]:
    register_family(
        _name,
        partial(pyramidnet, bottleneck=_bottleneck),
        pattern=rf"{_name}(?P<depth>\d+)_a(?P<alpha>\d+)",
        paper=_PAPER,
        printed=_CIFAR_PRINTED,
    )
register_family(
    "pyramidnet_imagenet",
    partial(pyramidnet, bottleneck=True, imagenet_stem=True),
    pattern=r"pyramidnet_imagenet(?P<depth>\d+)_a(?P<alpha>\d+)",
    paper=_PAPER,
    printed=_IMAGENET_PRINTED,
    input_shape=(224, 224, 3),
    num_classes=1000,
)
