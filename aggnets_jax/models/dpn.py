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

Where implementations differ: the networks are those of the authors' code for MXNet
(https://github.com/cypw/DPNs), with its eps of 1e-3 in the norms and its ReLU before the classifier
(timm, whose weights are converted from there, has an ELU: `head_activation="elu"`). DPN-68 has a
narrow stem, conv3x3(10), and residual paths a quarter as wide.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from aggnets_jax.arguments import check_whole_number, choose
from aggnets_jax.connectivity.aggregation import DualPath, Masked, check_aggregation
from aggnets_jax.connectivity.execution import Execution
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import Topology, TopologyArgs, per_stage, stage_topologies
from aggnets_jax.errors import UserError
from aggnets_jax.layers import common
from aggnets_jax.models.registry import Printed, register_family

HEAD_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"relu": nn.relu, "elu": nn.elu}


class NormReluConv(nn.Module):
    """BN-ReLU-conv1x1 at a stride, by which a stage's input gets to both paths."""

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


class DPN(nn.Module):
    """Stem, stages of `DualPathUnit` (the later ones at stride 2), head.

    Attributes:
      num_classes: size of the logits.
      topologies: one for each stage.
      residual: channels of the residual path in the first stage, doubled in each later one.
      growth_rates: k of each stage, by which the dense path gets wider with each layer.
      width: w of the first stage, doubled in each later one.
      groups: of the 3x3 convolutions.
      stem_features: channels of the stem.
      stem_kernel: size of its convolution, at stride 2 and with maxpool3x3/2 behind it.
      aggregation: "dual_path", or "concat", "sum" or "mean" of all channels.
      head_activation: one of `HEAD_ACTIVATIONS`, before the last pooling.
      dtype: in which to compute.
      execution: of the stages.
    """

    num_classes: int
    topologies: tuple[Topology, ...]
    residual: int
    growth_rates: tuple[int, ...]
    width: int
    groups: int
    stem_features: int
    stem_kernel: int = 7
    aggregation: str = "dual_path"
    head_activation: str = "relu"
    dtype: DTypeLike = jnp.float32
    execution: Execution = Execution()

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Classifies images; see `SparseNet.__call__` for arguments, results and endpoints."""
        norm = partial(common.batch_norm(train=train, dtype=self.dtype), epsilon=1e-3)
        conv = partial(common.conv, dtype=self.dtype)
        endpoints = {}

        x = jnp.asarray(images, self.dtype)
        x = common.imagenet_stem(
            x, self.stem_features, kernel_size=self.stem_kernel, norm=norm, conv=conv
        )
        endpoints["stem"] = x

        for i, (topology, k) in enumerate(
            zip(self.topologies, self.growth_rates, strict=True), start=1
        ):
            residual, width = self.residual * 2 ** (i - 1), self.width * 2 ** (i - 1)
            stride, dual = 1 if i == 1 else 2, self.aggregation == "dual_path"
            unit = partial(
                DualPathUnit, width, residual + k, groups=self.groups, norm=norm, conv=conv
            )
            # Sums need outputs of one width.
            started = residual + (2 * k if dual or self.aggregation == "concat" else k)
            x = Stage(
                topology,
                unit=lambda layer, name, unit=unit, stride=stride: unit(
                    stride=stride if layer == 1 else 1, name=name
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
        x = common.activate(norm(name="head_norm"), x, activation)
        return common.classify(x, endpoints, self.num_classes, dtype=self.dtype)


class Variant(NamedTuple):
    """Numbers of a network, see `DPN`."""

    stage_depths: tuple[int, ...]
    growth_rate: tuple[int, ...]
    width: int
    groups: int
    stem_features: int
    residual: int = 256
    stem_kernel: int = 7


VARIANTS: Mapping[int, Variant] = {
    68: Variant((3, 4, 12, 3), (16, 32, 32, 64), 128, 32, 10, residual=64, stem_kernel=3),
    92: Variant((3, 4, 20, 3), (16, 32, 24, 128), 96, 32, 64),
    98: Variant((3, 6, 20, 3), (16, 32, 32, 128), 160, 40, 96),
    107: Variant((4, 8, 20, 3), (20, 64, 64, 128), 200, 50, 128),
    131: Variant((4, 8, 28, 3), (16, 32, 32, 128), 160, 40, 128),
}


def dpn(
    *,
    num_classes: int,
    depth: int,
    stage_depths: Sequence[int] | None = None,
    growth_rate: int | Sequence[int] | None = None,
    width: int | None = None,
    groups: int | None = None,
    residual: int | None = None,
    stem_features: int | None = None,
    stem_kernel: int | None = None,
    topology: str | Sequence[str] = "dense",
    topology_args: TopologyArgs = None,
    aggregation: str = "dual_path",
    head_activation: str = "relu",
    dtype: DTypeLike = jnp.float32,
) -> DPN:
    """Builds a network of this file.

    Args:
      num_classes: size of the logits.
      depth: one of `VARIANTS`, whose numbers stand for those below that are not given.
      stage_depths: layers of each stage.
      growth_rate: k, or one for each stage.
      width: of the bottlenecks of the first stage.
      groups: of the 3x3 convolutions.
      residual: width of the residual path in the first stage.
      stem_features: channels of the stem.
      stem_kernel: 3 or 7.
      topology: name of a pattern, or one for each stage.
      topology_args: arguments of the pattern, or one mapping for each stage.
      aggregation: "dual_path", "concat", "sum" or "mean".
      head_activation: "relu" or "elu".
      dtype: in which to compute.

    Raises:
      UserError: for numbers that fit no network.
    """
    if depth not in VARIANTS:
        nearest = min(VARIANTS, key=lambda d: abs(d - depth))
        raise UserError(f"no DPN of depth {depth}; allowed: {[*VARIANTS]}, nearest {nearest}")
    check_aggregation(aggregation, ("dual_path", "concat", "sum", "mean"))
    choose("head_activation", HEAD_ACTIVATIONS, head_activation)
    given = {
        "stage_depths": stage_depths,
        "growth_rate": growth_rate,
        "width": width,
        "groups": groups,
        "residual": residual,
        "stem_features": stem_features,
        "stem_kernel": stem_kernel,
    }
    numbers = VARIANTS[depth]._replace(**{k: v for k, v in given.items() if v is not None})
    growth_rates = per_stage("growth_rate", numbers.growth_rate, len(numbers.stage_depths))
    for k in growth_rates:
        check_whole_number("growth_rate", k, 1)
    for name in ("width", "groups", "residual", "stem_features"):
        check_whole_number(name, getattr(numbers, name), 1)
    if numbers.width % numbers.groups:
        raise UserError(f"width {numbers.width} is not divisible by groups {numbers.groups}")
    if numbers.stem_kernel not in (3, 7):
        raise UserError(f"stem_kernel must be 3 or 7, got {numbers.stem_kernel}")
    return DPN(
        num_classes=num_classes,
        topologies=stage_topologies(topology, topology_args, numbers.stage_depths),
        residual=numbers.residual,
        growth_rates=growth_rates,
        width=numbers.width,
        groups=numbers.groups,
        stem_features=numbers.stem_features,
        stem_kernel=numbers.stem_kernel,
        aggregation=aggregation,
        head_activation=head_activation,
        dtype=dtype,
    )


register_family(
    "dpn",
    dpn,
    pattern=r"dpn(?P<depth>\d+)",
    paper="Dual Path Networks, NeurIPS 2017, arXiv 1707.01629",
    # Errors and FLOPs are those of the authors' README, sizes those of the same networks in timm.
    printed={
        "dpn68": Printed(
            "README", "12.61M", {"imagenet2012": 23.57}, "2.5G", "has 2.33G multiply-adds"
        ),
        "dpn92": Printed("README", "37.67M", {"imagenet2012": 20.73}, "6.5G"),
        "dpn98": Printed("README", "61.57M", {"imagenet2012": 20.15}, "11.7G"),
        "dpn107": Printed(
            "README", "86.92M", {}, "18.3G", "errors only after training on more images"
        ),
        "dpn131": Printed("README", "79.25M", {"imagenet2012": 19.93}, "16.0G"),
    },
    input_shape=(224, 224, 3),
    num_classes=1000,
)
