"""DenseNet and SparseNet[concat]: one network, two topologies.

Paper: Zhu et al., "Sparsely Aggregated Convolutional Networks", ECCV 2018, arXiv 1801.05895, and
Huang et al., "Densely Connected Convolutional Networks", CVPR 2017, arXiv 1608.06993.

    SparseNet, eq. 2:  y_l = F_l(concat(y_{l-1}, y_{l-2}, y_{l-4}, y_{l-8}, ...))
    DenseNet,  eq. 3:  y_l = F_l(concat(y_0, y_1, ..., y_{l-1}))

y_0 is the stage's input and the stage's output is the same rule for layer N + 1. F_l is
BN-ReLU-conv3x3(k), or with bottleneck BN-ReLU-conv1x1(4k)-BN-ReLU-conv3x3(k). Between the stages a
transition BN-ReLU-conv1x1-avgpool compresses the channels by theta.

Where the papers and the reference code differ, or the print is wrong:
* Offsets start at 2^0 and y_0 counts as any other output; a layer has floor(log2 l) + 1 links, one
  more than eq. 4 prints.
* The named ImageNet SparseNets average the last 7x7 map to 3x3 and feed all nine values of each
  channel to the classifier: only so do the parameters of Table 4 come out, to the digit.
  `pool="global"` gives the usual head.
* The transition convolution stays where nothing is compressed (theta = 1).
* "1001 layers" are 6 * 166 + 4, that is 1000.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from aggnets_jax.arguments import check_number, check_whole_number, choose, layers_in_depth
from aggnets_jax.connectivity.aggregation import Masked, check_aggregation
from aggnets_jax.connectivity.execution import Execution
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import Topology, TopologyArgs, per_stage, stage_topologies
from aggnets_jax.errors import UserError
from aggnets_jax.layers import common
from aggnets_jax.models.flops import two_for_each_multiply_add
from aggnets_jax.models.registry import Printed, register_family


class DenseLayer(nn.Module):
    """The unit: BN-ReLU-conv3x3(k), with bottleneck BN-ReLU-conv1x1(4k) before it.

    Attributes:
      growth_rate: k, the channels of the output.
      bottleneck: whether a 1x1 convolution to 4k channels goes before.
      groups: of the 3x3 convolution.
      norm: makes batch normalisations.
      conv: makes convolutions.
      dropout: makes the channel dropout after each convolution.
    """

    growth_rate: int
    bottleneck: bool
    groups: int
    norm: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]
    dropout: Callable[[], nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array | Masked) -> jax.Array:
        """[batch, height, width, channels] -> [batch, height, width, growth_rate]."""
        x = common.activate(self.norm(name="norm1"), x)
        if not self.bottleneck:
            return self.dropout()(
                self.conv(self.growth_rate, 3, groups=self.groups, name="conv1")(x)
            )
        x = self.dropout()(self.conv(4 * self.growth_rate, 1, name="conv1")(x))
        x = nn.relu(self.norm(name="norm2")(x))
        return self.dropout()(self.conv(self.growth_rate, 3, groups=self.groups, name="conv2")(x))


class Transition(nn.Module):
    """BN-ReLU-conv1x1(floor(theta * channels), at least `least`)-average pool 2x2."""

    compression: float
    norm: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]
    least: int = 0

    @nn.compact
    def __call__(self, x: jax.Array | Masked) -> jax.Array:
        """[batch, height, width, channels] -> [batch, height / 2, width / 2, theta * channels]."""
        x = common.activate(self.norm(name="norm"), x)
        features = common.compressed(x.shape[-1], self.compression, least=self.least)
        x = self.conv(features, 1, name="conv")(x)
        return nn.avg_pool(x, (2, 2), strides=(2, 2))


class SparseNet(nn.Module):
    """Stem, stages of `DenseLayer` with transitions between them, head.

    Attributes:
      num_classes: size of the logits.
      topologies: one for each stage.
      growth_rates: k of each stage.
      stem_features: channels of the stem.
      bottleneck: whether layers have a 1x1 convolution before the 3x3.
      compression: theta of the transitions.
      aggregation: "concat"; with "sum" or "mean" a 1x1 convolution brings y_0 to k channels.
      imagenet_stem: conv7x7/2-BN-ReLU-maxpool3x3/2 in the place of a 3x3 convolution.
      pool: "global", or "flatten" for the head of Table 4's networks.
      groups: of the 3x3 convolutions.
      dropout: probability of dropping a channel after each convolution of a layer.
      dtype: in which to compute.
      execution: of the stages.
    """

    num_classes: int
    topologies: tuple[Topology, ...]
    growth_rates: tuple[int, ...]
    stem_features: int
    bottleneck: bool
    compression: float
    aggregation: str = "concat"
    imagenet_stem: bool = False
    pool: str = "global"
    groups: int = 1
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    execution: Execution = Execution()

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Classifies images.

        Args:
          images: [batch, height, width, channels], normalised.
          train: whether to normalise by the batch, and to drop channels (rng "dropout").

        Returns:
          Logits [batch, num_classes] of at least float32, and the endpoints by name: `stem`,
          `stage1`, ..., `pre_logits_2d` [batch, height, width, channels], `pre_logits`
          [batch, features] and `logits`.
        """
        norm = common.batch_norm(train=train, dtype=self.dtype)
        conv = partial(common.conv, dtype=self.dtype)
        dropout = partial(common.channel_dropout, self.dropout, train=train)
        endpoints = {}

        x = jnp.asarray(images, self.dtype)
        if self.imagenet_stem:
            x = common.imagenet_stem(x, self.stem_features, norm=norm, conv=conv)
        else:
            x = conv(self.stem_features, 3, name="stem_conv")(x)
        endpoints["stem"] = x

        for i, (topology, growth_rate) in enumerate(
            zip(self.topologies, self.growth_rates, strict=True), start=1
        ):
            if i > 1:
                transition = Transition(self.compression, norm, conv, name=f"transition{i - 1}")
                x = transition(x)
            unit = partial(
                DenseLayer, growth_rate, self.bottleneck, self.groups, norm, conv, dropout
            )
            x = Stage(
                topology,
                unit=lambda layer, name, unit=unit: unit(name=name),
                aggregation=self.aggregation,
                projection=None if self.aggregation == "concat" else partial(conv, growth_rate, 1),
                preactivated=True,
                train=train,
                kind=lambda layer: None,
                execution=self.execution,
                name=f"stage{i}",
            )(x)
            endpoints[f"stage{i}"] = common.features_of(x)

        x = common.activate(norm(name="head_norm"), x)
        pool = common.POOLS[self.pool]
        return common.classify(x, endpoints, self.num_classes, dtype=self.dtype, pool=pool)


def sparsenet(
    *,
    num_classes: int,
    depth: int | None = None,
    growth_rate: int | Sequence[int],
    topology: str | Sequence[str],
    topology_args: TopologyArgs = None,
    stage_depths: Sequence[int] | None = None,
    stem_features: int | None = None,
    bottleneck: bool,
    compression: float,
    aggregation: str = "concat",
    imagenet_stem: bool = False,
    pool: str = "global",
    groups: int = 1,
    dropout: float = 0.0,
    dtype: DTypeLike = jnp.float32,
) -> SparseNet:
    """Builds a network of this file from the numbers in its name.

    Args:
      num_classes: size of the logits.
      depth: convolutions on the longest path, and the classifier; needed without `stage_depths`.
      growth_rate: k, or one for each stage.
      topology: name of a pattern, or one for each stage.
      topology_args: arguments of the pattern, or one mapping for each stage.
      stage_depths: layers of each stage; default from `depth`.
      stem_features: default 2k, and k with `imagenet_stem`.
      bottleneck: see `SparseNet`, as the rest.
      compression: theta.
      aggregation: "concat", "sum" or "mean".
      imagenet_stem: whether for large images.
      pool: "global" or "flatten".
      groups: of the 3x3 convolutions.
      dropout: of channels.
      dtype: in which to compute.

    Raises:
      UserError: for numbers that fit no network.
    """
    if stage_depths is None:
        stage_depths = _stage_depths(depth, bottleneck, imagenet_stem)
    growth_rates = _growth_rates(growth_rate, len(stage_depths), groups)
    if stem_features is None:
        stem_features = growth_rates[0] * (1 if imagenet_stem else 2)
    _check_fields(stem_features, compression, dropout, aggregation, pool)
    return SparseNet(
        num_classes=num_classes,
        topologies=stage_topologies(topology, topology_args, stage_depths),
        growth_rates=growth_rates,
        stem_features=stem_features,
        bottleneck=bottleneck,
        compression=compression,
        aggregation=aggregation,
        imagenet_stem=imagenet_stem,
        pool=pool,
        groups=groups,
        dropout=dropout,
        dtype=dtype,
    )


def _check_fields(
    stem_features: int, compression: float, dropout: float, aggregation: str, pool: str
) -> None:
    check_whole_number("stem_features", stem_features, 1)
    check_number("compression", compression, 0.01, 1)
    check_number("dropout", dropout, 0, 0.99)
    check_aggregation(aggregation)
    choose("pool", common.POOLS, pool)


def _growth_rates(growth_rate: int | Sequence[int], stages: int, groups: int) -> tuple[int, ...]:
    check_whole_number("groups", groups, 1)
    growth_rates = per_stage("growth_rate", growth_rate, stages)
    for k in growth_rates:
        check_whole_number("growth_rate", k, 1)
        if k % groups:
            raise UserError(f"growth_rate {k} is not divisible by groups {groups}")
    return growth_rates


IMAGENET_DEPTHS = {
    121: (6, 12, 24, 16),
    169: (6, 12, 32, 32),
    201: (6, 12, 48, 32),
    264: (6, 12, 64, 48),
}


def _stage_depths(depth: int | None, bottleneck: bool, imagenet_stem: bool) -> tuple[int, ...]:
    """Layers of each stage; `depth` counts their convolutions and those outside the stages."""
    if depth is None:
        raise UserError("a network needs the argument 'depth', or 'stage_depths'")
    if imagenet_stem:
        if depth not in IMAGENET_DEPTHS:
            raise UserError(f"no ImageNet network of depth {depth}; allowed: {[*IMAGENET_DEPTHS]}")
        return IMAGENET_DEPTHS[depth]
    # What the papers call 1001 layers are 6 * 166 + 4.
    counted = 1000 if bottleneck and depth == 1001 else depth
    layers_per_stage = layers_in_depth(counted, 6 if bottleneck else 3, 4)
    return (layers_per_stage,) * 3


_SPARSENET_PAPER = "Sparsely Aggregated Convolutional Networks, ECCV 2018, arXiv 1801.05895"
_DENSENET_PAPER = "Densely Connected Convolutional Networks, CVPR 2017, arXiv 1608.06993"
_NUMBERS = r"\d+(?:_\d+)*"


def _errors(cifar10: float | None, cifar100: float | None) -> dict[str, float]:
    errors = {"cifar10": cifar10, "cifar100": cifar100}
    return {name: error for name, error in errors.items() if error is not None}


_TEN = "the size is that of 10 classes"
_DIFFERS = "the size does not come out"

# What the SparseNet paper prints: table, parameters, top-1 error on CIFAR-10 and CIFAR-100 with
# standard augmentation. Most sizes are those of networks with 100 classes.
_CIFAR_PRINTED = {
    name: Printed(table, params, _errors(cifar10, cifar100), note=note)
    for name, table, params, cifar10, cifar100, note in [
        ("densenet40_k12", "Table 2", "1.1M", 5.39, 24.79, None),
        ("densenet100_k12", "Table 2", "7.2M", 4.28, 20.97, None),
        ("densenet100_k24", "Table 2", "28.3M", 4.04, 19.61, None),
        ("densenet100_k16_32_64", "Table 2", "61.1M", 4.31, 20.6, "printed with a stem of 24"),
        ("densenet100_k32_64_128", "Table 2", "241.6M", None, None, "printed with a stem of 24"),
        ("densenet400_k12", "Table 3", "117M", None, None, _TEN),
        ("densenet_bc100_k12", "DenseNet, Table 2", "0.8M", 4.51, 22.27, None),
        (
            "densenet_bc250_k24",
            "Table 2",
            "15.3M",
            3.65,
            17.6,
            "10 classes; Table 3: 25.6M",
        ),
        ("densenet_bc190_k40", "Table 2", "25.6M", 3.75, 17.53, _TEN),
        ("densenet_bc100_k16_32_64", "Table 2", "7.9M", 4.02, 19.55, "printed with a stem of 48"),
        ("densenet_bc100_k32_64_128", "Table 2", "30.5M", 3.92, 18.71, "printed with a stem of 24"),
        ("densenet_bc400_k24", "Table 3", "216.3M", None, None, "the count is that of depth 1001"),
        ("densenet_bc1001_k24", "Table 3", "216.3M", None, None, "printed as depth 400"),
        ("densenet_bc400_k4", "Table 3", "1.10M", None, 32.94, _DIFFERS),
        ("densenet_bc1001_k4", "Table 3", "6.63M", None, 28.50, None),
        ("sparsenet40_k12", "Table 2", "0.8M", None, None, "the row is that of k = 24"),
        ("sparsenet40_k24", "Table 2", "0.8M", 5.13, 24.65, "printed as k = 12"),
        ("sparsenet100_k24", "Table 2", "2.5M", 4.64, 22.41, None),
        ("sparsenet100_k36", "Table 2", "5.7M", 4.34, 20.50, "5.65M, rounded up"),
        ("sparsenet100_k16_32_64", "Table 2", "7.2M", 4.11, 19.49, None),
        ("sparsenet100_k32_64_128", "Table 2", "27.7M", 3.88, 18.80, _DIFFERS),
        ("sparsenet_bc100_k12", "Table 3", "0.40M", None, 27.99, _DIFFERS),
        ("sparsenet_bc400_k12", "Table 3", "1.70M", None, 24.41, None),
        ("sparsenet_bc1001_k12", "Table 3", "4.62M", None, 22.10, _TEN),
        ("sparsenet_bc100_k24", "Table 2", "1.5M", 4.03, 22.12, None),
        ("sparsenet_bc100_k36", "Table 2", "3.3M", 3.91, 20.31, None),
        ("sparsenet_bc100_k16_32_64", "Table 2", "4.4M", 3.43, 19.71, None),
        ("sparsenet_bc100_k32_64_128", "Table 2", "16.7M", 3.22, 17.71, _DIFFERS),
    ]
}
_IMAGENET_PRINTED = {
    name: Printed("Table 4", params, {"imagenet2012": error}, flops, note)
    for name, params, error, flops, note in [
        ("densenet121", "7.98M", 25.0, "5.7G", None),
        ("densenet169", "14.15M", 23.6, "6.76G", None),
        ("densenet201", "20.01M", 22.6, "8.63G", None),
        ("densenet264", "27.21M", 22.2, "11.03G", "printed with stages (6, 12, 64, 32)"),
        ("sparsenet121_k32", "4.51M", 25.6, "3.46G", None),
        ("sparsenet169_k32", "6.23M", 24.2, "3.74G", None),
        ("sparsenet201_k32", "7.22M", 23.1, "4.13G", None),
        ("sparsenet201_k48", "14.91M", 22.1, "9.19G", None),
    ]
}


_SPARSENET = {"topology": "sparse"}
_DENSENET = {"topology": "dense"}
_PLAIN = {"bottleneck": False, "compression": 1.0}
_BC = {"bottleneck": True, "compression": 0.5}

# ImageNet first, because sparsenet121_k32 is a network of Table 4, though 121 fits CIFAR, too.
register_family(
    "densenet_imagenet",
    partial(sparsenet, **_DENSENET, **_BC, imagenet_stem=True, growth_rate=32, stem_features=64),
    pattern=rf"densenet(?P<depth>121|169|201|264)(?:_k(?P<growth_rate>{_NUMBERS}))?",
    paper=_DENSENET_PAPER,
    printed=_IMAGENET_PRINTED,
    input_shape=(224, 224, 3),
    num_classes=1000,
    flops=two_for_each_multiply_add,
)
register_family(
    "sparsenet_imagenet",
    partial(sparsenet, **_SPARSENET, **_BC, imagenet_stem=True, pool="flatten"),
    pattern=rf"sparsenet(?P<depth>121|169|201|264)_k(?P<growth_rate>{_NUMBERS})",
    paper=_SPARSENET_PAPER,
    printed=_IMAGENET_PRINTED,
    input_shape=(224, 224, 3),
    num_classes=1000,
    flops=two_for_each_multiply_add,
)
for _name, _fields, _paper in [
    ("densenet", {**_DENSENET, **_PLAIN}, _DENSENET_PAPER),
    ("densenet_bc", {**_DENSENET, **_BC}, _DENSENET_PAPER),
    ("sparsenet", {**_SPARSENET, **_PLAIN}, _SPARSENET_PAPER),
    ("sparsenet_bc", {**_SPARSENET, **_BC}, _SPARSENET_PAPER),
]:
    register_family(
        _name,
        partial(sparsenet, **_fields),
        pattern=rf"{_name}(?P<depth>\d+)_k(?P<growth_rate>{_NUMBERS})",
        paper=_paper,
        printed=_CIFAR_PRINTED,
        flops=two_for_each_multiply_add,
    )
