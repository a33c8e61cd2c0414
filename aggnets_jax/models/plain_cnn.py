"""Plain networks of biased convolutions and ReLU, without normalisation: NiN and its kin.

    x --[conv-ReLU]-- y_0 --conv-ReLU-- y_1 --conv-ReLU-- y_2 --[reduction]--[dropout]-- next stage
         opening             layer1            layer2

A stage is opened by a convolution of its own; the others are a `Stage` under the topology "plain"
(or any other). The reduction halves the resolution: a pooling, or a convolution at stride 2. There
is no classifier on pooled features: a 1x1 convolution to the classes is averaged over positions.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from aggnets_jax.arguments import check_number
from aggnets_jax.connectivity.aggregation import check_aggregation
from aggnets_jax.connectivity.execution import Execution
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import Topology, TopologyArgs, TopologyLike, stage_topologies
from aggnets_jax.layers import common
from aggnets_jax.layers.pooling import avg_pool, max_pool
from aggnets_jax.layers.regularisation import current_strength


class Convolution(NamedTuple):
    """A convolution of (features, kernel size); without `padded` the map gets smaller."""

    features: int
    kernel_size: int
    padded: bool = True


class PlainStage(NamedTuple):
    """A stage: its convolutions, the first of which opens it, and how it halves the resolution."""

    convolutions: Sequence[Convolution]
    reduction: str | None = None


def _pool(pool: Callable[..., jax.Array], *padding: int) -> Callable[[jax.Array], jax.Array]:
    return lambda x: pool(x, (3, 3), strides=(2, 2), padding=(padding, padding))


POOLS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "max": _pool(max_pool, 1, 1),
    "average": _pool(avg_pool, 1, 1),  # padding is averaged, too
    "max_ceil": _pool(max_pool, 0, 1),  # Caffe: sizes are rounded up
}
"""Poolings 3x3 at stride 2; the reduction "conv" is a convolution instead."""


class ConvRelu(nn.Module):
    """The unit: a biased convolution and ReLU."""

    convolution: Convolution
    conv: common.Conv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> [batch, height, width, features]."""
        return nn.relu(self.conv(*self.convolution[:2], name="conv")(x))


class PlainCNN(nn.Module):
    """Stages of `ConvRelu` with reductions between them, a convolution to the classes, their mean.

    Attributes:
      num_classes: size of the logits.
      topologies: topology of the layers after the opening of each stage.
      stages: the convolutions of each stage.
      final_relu: whether ReLU comes after the convolution to the classes.
      further_linear: whether a linear layer from classes to classes ends the network (DSN).
      aggregation: "concat", "sum" or "mean".
      input_dropout: probability of dropping a value of the images.
      dropout: probability of dropping a value after each reduction.
      companions: weight of the losses of companion heads, linear layers on the opening of each
        stage before ReLU; 0 for none.
      dtype: dtype of the computation.
      execution: how the stages are computed.
    """

    num_classes: int
    topologies: tuple[Topology, ...]
    stages: tuple[PlainStage, ...]
    final_relu: bool = True
    further_linear: bool = False
    aggregation: str = "concat"
    input_dropout: float = 0.0
    dropout: float = 0.0
    companions: float = 0.0
    dtype: DTypeLike = jnp.float32
    execution: Execution = Execution()

    @property
    def loss(self) -> str:
        """Name of the loss that the network is trained by, see `training.losses.LOSSES`."""
        return "squared_hinge" if self.companions else "cross_entropy"

    @property
    def linear_head(self) -> bool:
        """Whether only a linear layer depends on the classes, so that sizes are linear in them."""
        return False

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Classify images; see `Network.__call__` for arguments, results and endpoints.

        The endpoint `stem` is the output of the first convolution. With companions there are their
        logits `auxiliary1`, ..., and `auxiliary_weight`.
        """
        conv = partial(common.conv, dtype=self.dtype, bias_init=nn.initializers.zeros)
        unpadded = partial(conv, padding=0)
        drop = partial(nn.Dropout, deterministic=not train)
        endpoints = {}

        x = drop(self.input_dropout)(common.as_images(images, self.dtype))
        for i, (topology, stage) in enumerate(zip(self.topologies, self.stages, strict=True), 1):
            (features, size, padded), *rest = stage.convolutions
            opening = conv if padded else unpadded
            raw = opening(features, size, name=f"stage{i}_opening")(x)
            if self.companions:
                endpoints[f"auxiliary{i}"] = self._companion(raw, i)
            x = nn.relu(raw)
            endpoints.setdefault("stem", x)
            x = Stage(
                topology,
                unit=lambda layer, name, rest=rest: ConvRelu(rest[layer - 1], conv, name=name),
                aggregation=self.aggregation,
                execution=self.execution,
                name=f"stage{i}",
            )(x)
            endpoints[f"stage{i}"] = x
            if stage.reduction == "conv":
                x = nn.relu(conv(features, 3, stride=2, name=f"stage{i}_reduction")(x))
            elif stage.reduction:
                x = POOLS[stage.reduction](x)
            if stage.reduction:
                x = drop(self.dropout)(x)
        if self.companions:
            endpoints["auxiliary_weight"] = jnp.float32(self.companions * current_strength(self))
        return self._classify(x, endpoints)

    def _companion(self, raw: jax.Array, stage: int) -> jax.Array:
        # Channels come first, as in Caffe and PyTorch, so that their weights need no permutation.
        flat = raw.transpose(0, 3, 1, 2).reshape(raw.shape[0], -1)
        return nn.Dense(
            self.num_classes,
            dtype=jnp.promote_types(self.dtype, jnp.float32),
            kernel_init=common.uniform_fan_in,
            name=f"companion{stage}",
        )(flat)

    def _classify(
        self, x: jax.Array, endpoints: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        dtype = jnp.promote_types(self.dtype, jnp.float32)
        endpoints["pre_logits_2d"] = x
        to_classes = partial(
            common.conv, self.num_classes, 1, dtype=dtype, bias_init=nn.initializers.zeros
        )
        if self.further_linear:
            x = to_classes(name="class_conv")(x)
            endpoints["pre_logits"] = common.global_average(x)
            logits = nn.Dense(
                self.num_classes,
                dtype=dtype,
                kernel_init=common.uniform_fan_in,
                name="classifier",
            )(endpoints["pre_logits"])
        else:
            endpoints["pre_logits"] = common.global_average(x)
            x = to_classes(name="classifier")(x)
            logits = common.global_average(nn.relu(x) if self.final_relu else x)
        endpoints["logits"] = logits
        return logits, endpoints


def plain_cnn(
    stages: Sequence[PlainStage],
    *,
    topology: TopologyLike = "plain",
    topology_args: TopologyArgs = None,
    **fields: Any,
) -> PlainCNN:
    """Build a `PlainCNN`.

    Args:
      stages: the convolutions of each stage.
      topology: name of a pattern, or one for each stage.
      topology_args: arguments of the pattern, or one mapping for each stage.
      **fields: further fields of `PlainCNN`.

    Raises:
      UserError: for numbers that fit no network.
    """
    depths = [len(stage.convolutions) - 1 for stage in stages]
    topologies = stage_topologies(topology, topology_args, depths)
    network = PlainCNN(topologies=topologies, stages=tuple(stages), **fields)
    check_aggregation(network.aggregation)
    for name in ("input_dropout", "dropout"):
        check_number(name, getattr(network, name), 0, 0.99)
    check_number("companions", network.companions, 0)
    return network
