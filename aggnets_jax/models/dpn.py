"""DPN: a residual path and a densely connected path, side by side in every stage.

Paper: Chen et al., "Dual Path Networks", NeurIPS 2017, arXiv 1707.01629.

    x_l = [r_0 + r_1 + ... + r_l || d_0 || d_1 || ... || d_l]
    [r_l || d_l] = y_l = F_l(x_{l-1})

            .------------ F_l ------------.
            |                  r_l |  d_l |
    x_{l-1} [ residual ]----------(+)-----|--[ residual ]  x_l
            [ dense ... ]----------------(||)[ dense ......]

All layers read both paths. y_0 is BN-ReLU-conv1x1 of the stage's input, with the width of the
residual path and twice the step k of the dense one. F_l is the bottleneck BN-ReLU-conv1x1(w)-BN-
ReLU-conv3x3(w, in groups)-BN-ReLU-conv1x1(residual + k).

Where implementations differ: the networks are the same as in the authors' code for MXNet
(https://github.com/cypw/DPNs), with eps 1e-3 in the norms and ReLU before the classifier. timm has
converted these weights, but has an ELU before the classifier: `head_activation="elu"`. DPN-68 has a
narrow stem, conv3x3(10), and residual paths of a quarter of the width.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from flax import linen as nn

from aggnets_jax.arguments import check_whole_number, choose, given_or, known_depth
from aggnets_jax.connectivity.aggregation import DualPath, Masked, check_aggregation
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
from aggnets_jax.models.network import Endpoints, Network
from aggnets_jax.models.registry import IMAGENET, register_family

HEAD_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"relu": nn.relu, "elu": nn.elu}


class NormReluConv(nn.Module):
    """BN-ReLU-conv1x1 at a stride, which brings a stage's input to both paths."""

    features: int
    stride: int
    norm: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array | Masked) -> jax.Array:
        """[batch, height, width, channels] -> [batch, rows, columns, features]."""
        x = common.activate(self.norm(name="norm"), x)
        return self.conv(self.features, 1, stride=self.stride, name="conv")(x)


class DualPathUnit(nn.Module):
    """The unit F: BN-ReLU-conv1x1(w)-BN-ReLU-conv3x3(w)-BN-ReLU-conv1x1(features).

    Attributes:
      width: w.
      features: channels of the output.
      stride: of the 3x3 convolution.
      groups: of the 3x3 convolution.
      norm: makes batch normalisations.
      conv: makes convolutions.
    """

    width: int
    features: int
    stride: int
    groups: int
    norm: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array | Masked) -> jax.Array:
        """[batch, height, width, channels] -> [batch, rows, columns, features]."""
        x = self.conv(self.width, 1, name="conv1")(common.activate(self.norm(name="norm1"), x))
        x = nn.relu(self.norm(name="norm2")(x))
        x = self.conv(self.width, 3, stride=self.stride, groups=self.groups, name="conv2")(x)
        x = nn.relu(self.norm(name="norm3")(x))
        return self.conv(self.features, 1, name="conv3")(x)


class DPN(Network):
    """Stem, stages of `DualPathUnit` (the later ones at stride 2), head.

    Attributes:
      topologies: topology of each stage.
      residual: channels of the residual path in the first stage, doubled in each later one.
      growth_rates: k of each stage, by which the dense path gets wider with each layer.
      width: w of the first stage, doubled in each later one.
      groups: groups of the 3x3 convolutions.
      stem_features: channels of the stem.
      stem_kernel: size of the stem's convolution, at stride 2; maxpool3x3/2 follows.
      aggregation: "dual_path", or "concat", "sum" or "mean" of all channels.
      head_activation: "relu" or "elu", before the last pooling.
    """

    topologies: tuple[Topology, ...]
    residual: int
    growth_rates: tuple[int, ...]
    width: int
    groups: int
    stem_features: int
    stem_kernel: int
    aggregation: str = "dual_path"
    head_activation: str = "relu"

    def _features(
        self, x: jax.Array, endpoints: Endpoints, norm: common.Norm, conv: common.Conv, train: bool
    ) -> jax.Array:
        norm = partial(norm, epsilon=1e-3)
        x = common.imagenet_stem(
            x, self.stem_features, kernel_size=self.stem_kernel, norm=norm, conv=conv
        )
        endpoints["stem"] = x

        for i, (topology, k) in enumerate(zip(self.topologies, self.growth_rates, strict=True), 1):
            residual, width = self.residual * 2 ** (i - 1), self.width * 2 ** (i - 1)
            stride, dual = 1 if i == 1 else 2, self.aggregation == "dual_path"
            # Sums need outputs of one width.
            started = residual + (2 * k if dual or self.aggregation == "concat" else k)
            x = Stage(
                topology,
                unit=lambda layer, name, parts=(width, residual + k), stride=stride: DualPathUnit(  # type: ignore[call-arg]
                    *parts, stride if layer == 1 else 1, self.groups, norm, conv, name=name
                ),
                aggregation=partial(DualPath, residual) if dual else self.aggregation,
                projection=partial(NormReluConv, started, stride, norm, conv),
                preactivated=True,
                train=train,
                execution=self.execution,
                name=f"stage{i}",
            )(x)
            endpoints[f"stage{i}"] = common.features_of(x)

        activation = HEAD_ACTIVATIONS[self.head_activation]
        return common.activate(norm(name="head_norm"), x, activation)


def dpn(
    *,
    depth: int,
    stage_depths: Sequence[int] | None = None,
    growth_rate: int | Sequence[int] | None = None,
    width: int | None = None,
    groups: int | None = None,
    residual: int | None = None,
    stem_features: int | None = None,
    stem_kernel: int | None = None,
    topology: TopologyLike = "dense",
    topology_args: TopologyArgs = None,
    **fields: Any,
) -> DPN:
    """Build a `DPN`.

    Args:
      depth: 68, 92, 98, 107 or 131, the default of the numbers below.
      stage_depths: layers of each stage.
      growth_rate: k, or one for each stage.
      width: width of the bottlenecks of the first stage.
      groups: groups of the 3x3 convolutions.
      residual: width of the residual path in the first stage.
      stem_features: channels of the stem.
      stem_kernel: 3 or 7.
      topology: name of a pattern, or one for each stage.
      topology_args: arguments of the pattern, or one mapping for each stage.
      **fields: further fields of `DPN`.

    Raises:
      UserError: for numbers that fit no network.
    """
    stage_depths, growth_rate, width, groups, stem_features, residual, stem_kernel = given_or(
        known_depth(depth, VARIANTS),
        *(stage_depths, growth_rate, width, groups, stem_features, residual, stem_kernel),
    )
    growth_rates = per_stage("growth_rate", growth_rate, len(stage_depths))
    for k in growth_rates:
        check_whole_number("growth_rate", k, 1)
    for name, number in {
        "width": width,
        "groups": groups,
        "residual": residual,
        "stem_features": stem_features,
    }.items():
        check_whole_number(name, number, 1)
    if width % groups:
        raise UserError(f"width {width} is not divisible by groups {groups}")
    if stem_kernel not in (3, 7):
        raise UserError(f"stem_kernel must be 3 or 7, got {stem_kernel}")
    network = DPN(
        topologies=stage_topologies(topology, topology_args, stage_depths),
        residual=residual,
        growth_rates=growth_rates,
        width=width,
        groups=groups,
        stem_features=stem_features,
        stem_kernel=stem_kernel,
        **fields,
    )
    check_aggregation(network.aggregation, ("dual_path", "concat", "sum", "mean"))
    choose("head_activation", HEAD_ACTIVATIONS, network.head_activation)
    return network


# By depth: layers and k of each stage, width, groups, stem, residual path, kernel of the stem.
VARIANTS = {
    68: ((3, 4, 12, 3), (16, 32, 32, 64), 128, 32, 10, 64, 3),
    92: ((3, 4, 20, 3), (16, 32, 24, 128), 96, 32, 64, 256, 7),
    98: ((3, 6, 20, 3), (16, 32, 32, 128), 160, 40, 96, 256, 7),
    107: ((4, 8, 20, 3), (20, 64, 64, 128), 200, 50, 128, 256, 7),
    131: ((4, 8, 28, 3), (16, 32, 32, 128), 160, 40, 128, 256, 7),
}

register_family(
    "dpn",
    dpn,
    pattern=r"dpn(?P<depth>\d+)",
    paper="Dual Path Networks, NeurIPS 2017, arXiv 1707.01629",
    **IMAGENET,
)
