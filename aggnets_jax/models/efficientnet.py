r"""EfficientNet-B0 and Micro-Dense-EfficientNet: one network, three blocks exchanged.

Paper: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
ICML 2019, arXiv 1905.11946 (Table 1).

    MBConv:  F(x) = project(SE(depthwise(expand(x)))),   y_l = y_{l-1} + F_l(y_{l-1})

    x --> 1x1 (6c) --> kxk depthwise --> squeeze-excite --> 1x1 (c) --+--> y
      \_______________________________________________________________/

expand, depthwise and project are convolution-BN, the first two with swish behind. A stage's first
MBConv, which changes width or resolution, has no shortcut; it is `stage{i}_opening`, the others the
layers of `stage{i}`. Squeeze-excite is narrowed to a quarter of the block's input, not of the
expanded width.

Where the paper and what is built differ: the original code pads as TensorFlow's "SAME" does and
normalises with eps 1e-3 and momentum 0.99. Here convolutions pad symmetrically and normalisation is
that of the package, as in torchvision, whose weights fit.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from aggnets_jax import named
from aggnets_jax.aggregation import AGGREGATIONS
from aggnets_jax.errors import UserError
from aggnets_jax.models import layers
from aggnets_jax.models.registry import Printed, register_family
from aggnets_jax.stage import Stage
from aggnets_jax.topology import Topology, TopologyArgs, stage_topologies


class MBConvStage(NamedTuple):
    """A row of Table 1: MBConvs alike but for the stride, which only the first has."""

    expansion: int
    kernel_size: int
    stride: int
    features: int
    blocks: int


B0_STAGES = (
    MBConvStage(1, 3, 1, 16, 1),
    MBConvStage(6, 3, 2, 24, 2),
    MBConvStage(6, 5, 2, 40, 2),
    MBConvStage(6, 3, 2, 80, 3),
    MBConvStage(6, 5, 1, 112, 3),
    MBConvStage(6, 5, 2, 192, 4),
    MBConvStage(6, 3, 1, 320, 1),
)


class SqueezeExcite(nn.Module):
    """Channels scaled by sigmoid(1x1(swish(1x1(mean)))), both convolutions with bias.

    Attributes:
      reduced: channels between the two.
      conv: makes convolutions.
    """

    reduced: int
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same shape."""
        gate = layers.global_average(x)[:, None, None]
        gate = nn.swish(
            self.conv(self.reduced, 1, bias_init=nn.initializers.zeros, name="reduce")(gate)
        )
        return x * nn.sigmoid(
            self.conv(x.shape[-1], 1, bias_init=nn.initializers.zeros, name="expand")(gate)
        )


class MBConv(nn.Module):
    """The unit F: 1x1-BN-swish, kxk depthwise-BN-swish, squeeze-excite, 1x1-BN.

    Attributes:
      features: channels of the output.
      expansion: how many times wider than the input it is inside; with 1 there is no first 1x1.
      kernel_size: of the depthwise convolution.
      stride: of the depthwise convolution.
      norm: makes batch normalisations.
      conv: makes convolutions.
    """

    features: int
    expansion: int
    kernel_size: int
    stride: int
    norm: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same divided by the stride, `features` wide."""
        reduced, width = max(1, x.shape[-1] // 4), self.expansion * x.shape[-1]
        if self.expansion > 1:
            x = self.conv(width, 1, name="expand_conv")(x)
            x = nn.swish(self.norm(name="expand_norm")(x))
        x = self.conv(
            width, self.kernel_size, stride=self.stride, groups=width, name="depthwise_conv"
        )(x)
        x = nn.swish(self.norm(name="depthwise_norm")(x))
        x = SqueezeExcite(reduced, self.conv, name="squeeze_excite")(x)
        return self.norm(name="project_norm")(self.conv(self.features, 1, name="project_conv")(x))


def with_shortcut(
    branch: Callable[[jax.Array], jax.Array], drop: Callable[[jax.Array], jax.Array]
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The layer of a stage with shortcuts that adds what it reads to what the branch makes."""
    return lambda x, shortcut: shortcut + drop(branch(x))


class EfficientNet(nn.Module):
    """Stem conv3x3/2(32), stages of `MBConv`, head conv1x1(1280), all followed by BN-swish.

    Attributes:
      num_classes: size of the logits.
      topologies: one for each stage, of the blocks behind its opening.
      aggregation: "sum" or "mean".
      dropout: probability of dropping a feature before the classifier.
      drop_connect: probability of dropping an image's branch in the last block, linear in the
        number of the block from 0 in the first.
      dtype: in which to compute.
    """

    num_classes: int
    topologies: tuple[Topology, ...]
    aggregation: str = "sum"
    dropout: float = 0.0
    drop_connect: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Classifies images; see `SparseNet.__call__` for arguments, results and endpoints."""
        norm = layers.batch_norm(train=train, dtype=self.dtype)
        conv = partial(layers.conv, dtype=self.dtype)
        endpoints = {}

        x = conv(32, 3, stride=2, name="stem_conv")(jnp.asarray(images, self.dtype))
        x = endpoints["stem"] = nn.swish(norm(name="stem_norm")(x))
        # The number of a block says how often its branch is dropped.
        number, total = 0, sum(stage.blocks for stage in B0_STAGES)
        for i, (stage, topology) in enumerate(zip(B0_STAGES, self.topologies, strict=True), 1):
            unit = partial(
                MBConv, stage.features, stage.expansion, stage.kernel_size, norm=norm, conv=conv
            )
            rates = [self.drop_connect * n / total for n in range(number, number + stage.blocks)]
            x = Stage(
                topology,
                unit=lambda layer, name, unit=unit, rates=rates: with_shortcut(
                    unit(stride=1, name=name), layers.branch_dropout(rates[layer], train=train)
                ),
                aggregation=self.aggregation,
                shortcuts=True,
                name=f"stage{i}",
            )(unit(stride=stage.stride, name=f"stage{i}_opening")(x))
            endpoints[f"stage{i}"] = x
            number += stage.blocks

        x = nn.swish(norm(name="head_norm")(conv(1280, 1, name="head_conv")(x)))
        endpoints["pre_logits_2d"] = x
        x = endpoints["pre_logits"] = layers.global_average(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = layers.classifier(self.num_classes, dtype=self.dtype, name="classifier")(x)
        endpoints["logits"] = logits
        return logits, endpoints


def efficientnet_b0(
    *,
    num_classes: int,
    topology: str | Sequence[str] = "plain",
    topology_args: TopologyArgs = None,
    aggregation: str = "sum",
    dropout: float = 0.0,
    drop_connect: float = 0.0,
    dtype: DTypeLike = jnp.float32,
) -> EfficientNet:
    """Builds EfficientNet-B0.

    Args:
      num_classes: size of the logits.
      topology: which outputs join what a block computes, one pattern or one for each stage;
        "plain" is the identity shortcut.
      topology_args: arguments of the pattern, or one mapping for each stage.
      aggregation: of those outputs, "sum" or "mean".
      dropout: see `EfficientNet`, 0.2 in the paper.
      drop_connect: see `EfficientNet`, 0.2 in the paper.
      dtype: in which to compute.

    Raises:
      UserError: for numbers that fit no network.
    """
    named.choose("aggregation", AGGREGATIONS, aggregation)
    if aggregation == "concat":
        raise UserError("aggregation 'concat' is too wide to join a block's output; allowed: sum")
    named.check_number("dropout", dropout, 0, 0.99)
    named.check_number("drop_connect", drop_connect, 0, 0.99)
    depths = [stage.blocks - 1 for stage in B0_STAGES]
    topologies = stage_topologies(topology, topology_args, depths, shortcuts=True)
    return EfficientNet(num_classes, topologies, aggregation, dropout, drop_connect, dtype)


register_family(
    "efficientnet_b0",
    efficientnet_b0,
    pattern=r"efficientnet_b0",
    paper="EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019,"
    " arXiv 1905.11946",
    printed={"efficientnet_b0": Printed("Table 2", "5.3M", {"imagenet2012": 22.9}, "0.39G")},
    input_shape=(224, 224, 3),
    num_classes=1000,
)
