"""Highway networks: a gate mixes, value by value, the result of a layer and its input.

Papers: Srivastava et al., "Highway Networks", arXiv 1505.00387, and "Training Very Deep Networks",
NeurIPS 2015, arXiv 1507.06228.

    y_l = T_l(y_{l-1}) H_l(y_{l-1}) + (1 - T_l(y_{l-1})) y_{l-1}        (eq. 3)
    H = ReLU(conv3x3),  T = sigmoid(conv3x3), whose bias begins at -2

    y_{l-1} --+-- H ----- * ---(+)-- y_l
              +-- T --+---'     |
              |     1 - T       |
              '-------*---------'

A highway layer keeps the width. Each of the three stages begins with an ordinary convolution to the
width of the stage. Max pooling is between the stages; conv1x1(100)-ReLU, the mean over positions
and the classifier follow the last stage. All convolutions have biases, and there are no norms.
Under another topology the gate carries the aggregate of a layer's sources instead of y_{l-1}.

The network of 19 layers follows the authors' code
(https://github.com/flukeskywalker/highway-networks): its stages have 32, 80 and 128 channels. The
papers do not give the widths of their other networks on CIFAR (11 layers with 236K parameters, 32
layers with 1.25M), so these are not listed. The code's dropout of 0.2 (of the images, between the
stages and before the classifier) is 0 here by default.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from flax import linen as nn

from aggnets_jax.arguments import check_number, check_whole_number
from aggnets_jax.connectivity.aggregation import check_aggregation
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import (
    Topology,
    TopologyArgs,
    TopologyLike,
    per_stage,
    stage_topologies,
)
from aggnets_jax.errors import UserError
from aggnets_jax.layers import common
from aggnets_jax.layers.pooling import max_pool
from aggnets_jax.models.network import Endpoints, Network
from aggnets_jax.models.registry import register_family

HEAD_FEATURES = 100

# Caffe's "xavier", which depends on the fan-in only.
_kernel_init = nn.initializers.lecun_uniform()


class HighwayLayer(nn.Module):
    """The unit: T H(x) + (1 - T) shortcut, eq. 3.

    Attributes:
      features: channels of input and output.
      gate_bias: initial bias of T; if negative, the layer begins near the identity.
      conv: makes convolutions.
    """

    features: int
    gate_bias: float
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, shortcut: jax.Array) -> jax.Array:
        """[batch, height, width, features] each -> the same shape."""
        transformed = nn.relu(
            self.conv(self.features, 3, bias_init=nn.initializers.zeros, name="transform")(x)
        )
        gate_init = nn.initializers.constant(self.gate_bias)
        gate = nn.sigmoid(self.conv(self.features, 3, bias_init=gate_init, name="gate")(x))
        return gate * transformed + (1 - gate) * shortcut


class HighwayNet(Network):
    """Stages of a convolution and highway layers with max pooling between them, head.

    Attributes:
      topologies: topology of the highway layers of each stage.
      widths: channels of each stage.
      gate_bias: initial bias of the gates.
      aggregation: "sum" or "mean", of the outputs that the gate carries.
      dropout: probability of dropping a value of the images, between stages and before the head.
    """

    topologies: tuple[Topology, ...]
    widths: tuple[int, ...]
    gate_bias: float = -2.0
    aggregation: str = "sum"
    dropout: float = 0.0

    def _features(
        self, x: jax.Array, endpoints: Endpoints, norm: common.Norm, conv: common.Conv, train: bool
    ) -> jax.Array:
        conv = partial(conv, kernel_init=_kernel_init)
        plain = partial(conv, bias_init=nn.initializers.zeros)
        dropout = partial(nn.Dropout, self.dropout, deterministic=not train)
        x = dropout()(x)
        for i, (topology, width) in enumerate(zip(self.topologies, self.widths, strict=True), 1):
            if i > 1:
                x = dropout()(max_pool(x, (2, 2), strides=(2, 2)))
            x = nn.relu(plain(width, 3, name=f"stage{i}_opening")(x))
            endpoints.setdefault("stem", x)
            x = Stage(
                topology,
                unit=partial(HighwayLayer, width, self.gate_bias, conv),
                aggregation=self.aggregation,
                shortcuts=True,
                execution=self.execution,
                kind=lambda layer: None,
                name=f"stage{i}",
            )(x)
            endpoints[f"stage{i}"] = x

        return nn.relu(plain(HEAD_FEATURES, 1, name="head_conv")(x))

    def _head(self, x: jax.Array, train: bool) -> dict[str, Any]:
        dropout = nn.Dropout(self.dropout, deterministic=not train)
        return {"dropout": dropout, "kernel_init": nn.initializers.normal(0.05)}


def highway(
    *,
    depth: int | None = None,
    stage_depths: Sequence[int] | None = None,
    widths: int | Sequence[int] = (32, 80, 128),
    topology: TopologyLike = "plain",
    topology_args: TopologyArgs = None,
    **fields: Any,
) -> HighwayNet:
    """Build a `HighwayNet`.

    Args:
      depth: layers of the stages, the 1x1 convolution and the classifier; needed without
        `stage_depths`. The stages get equally many layers, the later ones the remaining layers.
      stage_depths: layers of each stage, the first of which is an ordinary convolution.
      widths: channels of each stage.
      topology: pattern of the outputs that the gates carry, or one for each stage.
      topology_args: arguments of the pattern, or one mapping for each stage.
      **fields: further fields of `HighwayNet`.

    Raises:
      UserError: for numbers that fit no network.
    """
    if stage_depths is None:
        if depth is None:
            raise UserError("a network needs the argument 'depth', or 'stage_depths'")
        check_whole_number("depth", depth, 5)
        stage_depths = [(depth - 2 + i) // 3 for i in range(3)]
    for n in stage_depths:
        check_whole_number("the number of layers of a stage", n, 1)
    features = per_stage("widths", widths, len(stage_depths))
    for width in features:
        check_whole_number("widths", width, 1)
    depths = [n - 1 for n in stage_depths]
    topologies = stage_topologies(topology, topology_args, depths, shortcuts=True)
    network = HighwayNet(topologies=topologies, widths=features, **fields)
    because = "it would widen what a gate carries, which is added to what a layer computes"
    check_aggregation(network.aggregation, ("sum", "mean"), because)
    check_number("gate_bias", network.gate_bias, -100, 100)
    check_number("dropout", network.dropout, 0, 0.99)
    return network


register_family(
    "highway",
    highway,
    pattern=r"highway(?P<depth>\d+)",
    paper="Training Very Deep Networks, NeurIPS 2015, arXiv 1507.06228",
)
