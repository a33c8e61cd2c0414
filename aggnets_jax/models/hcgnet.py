"""HCGNet: dense connectivity between modules that are residual and gated inside.

Paper: Yang et al., "Gated Convolutional Networks with Hybrid Connectivity for Image
Classification", AAAI 2020, arXiv 1908.09699.

    hybrid block:   y_l = SMG_l(concat(y_0, y_1, ..., y_{l-1})), its output the same of all y
    SMG module:     X = squeeze(x),  A = dw3x3(X),  B = dw3x3(X) of dilation 2
                    SMG(x) = X * f(X) + v(A, B)

                         .-- P -- bottleneck, sigmoid: f --.
    x -- 1x1 -- 3x3 -- X +---------------------------------*--(+)-- SMG(x)
                         +-- dw3x3 ------------ A -- P --.      |
                         '-- dw3x3, dilation 2  B -- P --+-- v -'

P is a mean over positions with weights from a softmax (eq. 5 and 6). The forget gate f
(eq. 11) decays each channel of the reused map X; the update gate v (eq. 7 to 10) weighs P(A)
against P(B) and is added to every position. Each convolution of maps has BN-ReLU before it. A
transition between blocks is one such module at stride 2 whose input is not passed on.

Where the paper and the reference code (https://github.com/winycg/HCGNet) differ:
* Eq. 7 has the bias outside the normalisation, and eq. 8 one bias for both heads. In the code, and
  by the counts, the bias is inside (and thus without effect in training) and each head has its own.
* The middle of a transition has C_in - floor((C_in - C_out) / 2) channels, which is alpha = 1.5
  times C_out but for the rounding; C_out and the hidden layers of the gates are rounded down.
* The code for ImageNet applies dropout to a tensor that it then leaves aside: 0.1 before the
  classifier is the paper's. DropBlock behind the transitions of CIFAR is only in the code; there
  its squares may begin anywhere, and are cut off at the border of the map.
* FLOPs are printed as multiply-adds of convolutions and of the classifier, two operations for each
  element that a normalisation of maps puts out, one for each that a ReLU puts out or a pooling
  reads. The code that counts forgets the dilation, and so takes the maps of B for two rows and
  columns larger than they are.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from aggnets_jax.arguments import check_number, check_whole_number, choose
from aggnets_jax.connectivity.aggregation import Masked, check_aggregation
from aggnets_jax.connectivity.execution import Execution
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import Topology, TopologyArgs, per_stage, stage_topologies
from aggnets_jax.errors import UserError
from aggnets_jax.layers import common
from aggnets_jax.layers.regularisation import DropBlock
from aggnets_jax.models.flops import with_elementwise
from aggnets_jax.models.registry import Printed, register_family

MULTIPLIER = 4


def _linear(
    features: int, inputs: jax.Array, conv: Callable[..., nn.Module], name: str
) -> jax.Array:
    """A 1x1 convolution with bias, the linear layer of the gates."""
    bias_init = common.uniform_bias(inputs.shape[-1])
    return conv(features, 1, bias_init=bias_init, name=name)(inputs)


def _softmax(x: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
    """In at least float32."""
    return nn.softmax(x.astype(jnp.promote_types(x.dtype, jnp.float32)), axis)


class AttentionPool(nn.Module):
    """P: the mean over positions, weighted by the softmax of one score for each (eq. 5 and 6)."""

    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> [batch, 1, 1, channels]."""
        weights = _softmax(_linear(1, x, self.conv, "scores"), (1, 2))
        return jnp.sum(x * weights, (1, 2), keepdims=True).astype(x.dtype)


class ForgetGate(nn.Module):
    """f = sigmoid(W_2 tanh(BN(W_1 P(X) + b_1)) + b_2), by channel (eq. 11).

    Attributes:
      hidden: width of the bottleneck.
      norm: makes batch normalisations.
      conv: makes convolutions.
    """

    hidden: int
    norm: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> [batch, 1, 1, channels] in (0, 1)."""
        z = AttentionPool(self.conv, name="pool")(x)
        z = jnp.tanh(self.norm(name="norm")(_linear(self.hidden, z, self.conv, "linear1")))
        return nn.sigmoid(_linear(x.shape[-1], z, self.conv, "linear2"))


class UpdateGate(nn.Module):
    """v = u P(A) + (1 - u) P(B), the weights a softmax of two heads on both (eq. 7 to 10).

    Attributes:
      hidden: width of what the heads read.
      norm: makes batch normalisations.
      conv: makes convolutions.
    """

    hidden: int
    norm: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x_3x3: jax.Array, x_5x5: jax.Array) -> jax.Array:
        """[batch, height, width, channels] each -> [batch, 1, 1, channels]."""
        z_3x3 = AttentionPool(self.conv, name="pool_3x3")(x_3x3)
        z_5x5 = AttentionPool(self.conv, name="pool_5x5")(x_5x5)
        z = jnp.concatenate([z_3x3, z_5x5], axis=-1)
        h = jnp.tanh(self.norm(name="norm")(_linear(self.hidden, z, self.conv, "linear")))
        heads = [_linear(x_3x3.shape[-1], h, self.conv, f"head_{k}") for k in ("3x3", "5x5")]
        u_3x3, u_5x5 = _softmax(jnp.stack(heads), 0).astype(z.dtype)
        return u_3x3 * z_3x3 + u_5x5 * z_5x5


class SMG(nn.Module):
    """The unit: squeeze cell, multi-scale excitation cell and gates (Fig. 2).

    Attributes:
      features: C, the channels of the output.
      width: channels between the two convolutions of the squeeze cell.
      groups: of its 3x3 convolution.
      stride: of its 3x3 convolution.
      reduction: r, by which the hidden layers of the gates are narrower than what they read.
      norm: makes batch normalisations.
      conv: makes convolutions.
    """

    features: int
    width: int
    groups: int
    stride: int
    reduction: int
    norm: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array | Masked) -> jax.Array:
        """[batch, height, width, channels] -> [batch, height / stride, width / stride, features].

        Raises:
          UserError: if the hidden layer of a gate would have no channels.
        """
        if self.features < self.reduction:
            raise UserError(
                f"an SMG module of {self.features} channels is too narrow for gates that reduce"
                f" them by {self.reduction}"
            )

        def norm_relu_conv(
            x: jax.Array | Masked, index: str, *arguments: int, **keywords: int
        ) -> jax.Array:
            x = common.activate(self.norm(name=f"norm{index}"), x)
            return self.conv(*arguments, **keywords, name=f"conv{index}")(x)

        channels = self.features
        x = norm_relu_conv(x, "1", self.width, 1)
        x = norm_relu_conv(x, "2", channels, 3, stride=self.stride, groups=self.groups)
        x_3x3 = norm_relu_conv(x, "_3x3", channels, 3, groups=channels)
        # Dilated, for the 9 weights to span 5x5.
        x_5x5 = norm_relu_conv(x, "_5x5", channels, 3, groups=channels, dilation=2)

        gate = partial(ForgetGate, channels // self.reduction, self.norm, self.conv)
        update = partial(UpdateGate, 2 * channels // self.reduction, self.norm, self.conv)
        return x * gate(name="forget_gate")(x) + update(name="update_gate")(x_3x3, x_5x5)


class HCGNet(nn.Module):
    """Stem, hybrid blocks with transitions between them, head.

    Attributes:
      num_classes: size of the logits.
      topologies: one for each hybrid block.
      growth_rates: k of each hybrid block.
      stem_features: channels of the stem.
      groups: of the 3x3 convolutions in hybrid blocks.
      compression: theta of the transitions.
      aggregation: "concat"; with "sum" or "mean" a 1x1 convolution brings y_0 to k channels.
      imagenet_stem: [conv3x3-BN-ReLU] x 3 and maxpool3x3/2, the first at stride 2, in the place of
        a 3x3 convolution.
      dropout: probability of dropping a feature before the classifier.
      dropblock: side of the squares that DropBlock drops of what a transition puts out; 0: none.
      dtype: in which to compute.
      execution: of the stages.
    """

    num_classes: int
    topologies: tuple[Topology, ...]
    growth_rates: tuple[int, ...]
    stem_features: int
    groups: int = 4
    compression: float = 0.5
    aggregation: str = "concat"
    imagenet_stem: bool = False
    dropout: float = 0.0
    dropblock: int = 0
    dtype: DTypeLike = jnp.float32
    execution: Execution = Execution()

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Classifies images; see `SparseNet.__call__` for arguments, results and endpoints."""
        norm = common.batch_norm(train=train, dtype=self.dtype)
        conv = partial(common.conv, dtype=self.dtype, kernel_init=common.uniform_fan_in)
        x = self._stem(jnp.asarray(images, self.dtype), norm, conv)
        endpoints = {"stem": x}

        for i, (topology, growth_rate) in enumerate(
            zip(self.topologies, self.growth_rates, strict=True), start=1
        ):
            if i > 1:
                channels = common.features_of(x).shape[-1]
                features = common.compressed(channels, self.compression)
                width = channels - (channels - features) // 2
                x = SMG(features, width, 1, 2, 4, norm, conv, name=f"transition{i - 1}")(x)
                if self.dropblock:
                    x = DropBlock(self.dropblock, train, name=f"dropblock{i - 1}")(x)
            unit = partial(
                SMG, growth_rate, MULTIPLIER * growth_rate, self.groups, 1, 2, norm, conv
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
        return common.classify(
            x,
            endpoints,
            self.num_classes,
            dtype=self.dtype,
            dropout=nn.Dropout(self.dropout, deterministic=not train),
            bias_init=common.uniform_bias(x.shape[-1]),
        )

    def _stem(
        self, x: jax.Array, norm: Callable[..., nn.Module], conv: Callable[..., nn.Module]
    ) -> jax.Array:
        if not self.imagenet_stem:
            return conv(self.stem_features, 3, name="stem_conv")(x)
        half = self.stem_features // 2
        for i, (features, stride) in enumerate([(half, 2), (half, 1), (self.stem_features, 1)], 1):
            x = conv(features, 3, stride=stride, name=f"stem_conv{i}")(x)
            x = nn.relu(norm(name=f"stem_norm{i}")(x))
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


# Modules and growth rates of the hybrid blocks.
VARIANTS: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "a1": ((8, 8, 8), (12, 24, 36)),
    "a2": ((8, 8, 8), (24, 36, 64)),
    "a3": ((12, 12, 12), (36, 48, 80)),
    "b": ((3, 6, 12, 8), (32, 48, 64, 96)),
    "c": ((6, 12, 18, 14), (48, 56, 72, 112)),
}


def hcgnet(
    *,
    num_classes: int,
    variant: str | None = None,
    modules: Sequence[int] | None = None,
    growth_rate: int | Sequence[int] | None = None,
    topology: str | Sequence[str] = "dense",
    topology_args: TopologyArgs = None,
    stem_features: int | None = None,
    groups: int = 4,
    compression: float = 0.5,
    aggregation: str = "concat",
    imagenet_stem: bool = False,
    dropout: float = 0.0,
    dropblock: int = 0,
    dtype: DTypeLike = jnp.float32,
) -> HCGNet:
    """Builds a network of this file.

    Args:
      num_classes: size of the logits.
      variant: one of `VARIANTS`, whose numbers stand for the two below where they are not given.
      modules: SMG modules of each hybrid block.
      growth_rate: k, or one for each hybrid block.
      topology: name of a pattern, or one for each hybrid block.
      topology_args: arguments of the pattern, or one mapping for each hybrid block.
      stem_features: default 2k, and 64 with `imagenet_stem`.
      groups: see `HCGNet`, as the rest.
      compression: theta.
      aggregation: "concat", "sum" or "mean".
      imagenet_stem: whether for large images.
      dropout: of features before the classifier, 0.1 for ImageNet.
      dropblock: see `HCGNet`, 2 for CIFAR in the reference code; drops nothing unless
        `config.strength` is set.
      dtype: in which to compute.

    Raises:
      UserError: for numbers that fit no network.
    """
    if variant is not None:
        defaults = choose("variant", VARIANTS, variant)
        modules = defaults[0] if modules is None else modules
        growth_rate = defaults[1] if growth_rate is None else growth_rate
    if not modules or growth_rate is None:
        raise UserError("a network needs the arguments 'modules' and 'growth_rate', or 'variant'")
    check_whole_number("groups", groups, 1)
    growth_rates = per_stage("growth_rate", growth_rate, len(modules))
    for k in growth_rates:
        check_whole_number("growth_rate", k, 2)
        if k % groups:
            raise UserError(f"growth_rate {k} is not divisible by groups {groups}")
    topologies = stage_topologies(topology, topology_args, modules)
    if stem_features is None:
        stem_features = 64 if imagenet_stem else 2 * growth_rates[0]
    check_whole_number("stem_features", stem_features, 2)
    check_number("compression", compression, 0.01, 1)
    check_number("dropout", dropout, 0, 0.99)
    check_whole_number("dropblock", dropblock, 0)
    check_aggregation(aggregation)
    return HCGNet(
        num_classes,
        topologies,
        growth_rates,
        stem_features,
        groups=groups,
        compression=compression,
        aggregation=aggregation,
        imagenet_stem=imagenet_stem,
        dropout=dropout,
        dropblock=dropblock,
        dtype=dtype,
    )


_NUMBERS = r"\d+(?:_\d+)*"
_FAMILY = {
    "paper": "Gated Convolutional Networks with Hybrid Connectivity, AAAI 2020, arXiv 1908.09699",
    "printed": {
        "hcgnet_a1": Printed("Table 2", "1.1M", {"cifar10": 3.15, "cifar100": 18.13}, "0.2G"),
        "hcgnet_a2": Printed("Table 2", "3.1M", {"cifar10": 2.29, "cifar100": 16.54}, "0.5G"),
        "hcgnet_a3": Printed("Table 2", "11.4M", {"cifar10": 2.14, "cifar100": 15.96}, "2.0G"),
        "hcgnet_b": Printed(
            "Table 3", "12.9M", {"imagenet2012": 21.5}, "2.0G", "12.85M, rounded once more"
        ),
        "hcgnet_c": Printed("Table 3", "42.2M", {"imagenet2012": 19.5}, "7.1G"),
    },
    "flops": with_elementwise,
    "parse": {"modules": lambda text: tuple(map(int, text.split("_")))},
}

register_family(
    "hcgnet",
    hcgnet,
    pattern=rf"hcgnet_(?:(?P<variant>a[123])|n(?P<modules>{_NUMBERS})_k(?P<growth_rate>{_NUMBERS}))",
    **_FAMILY,
)
register_family(
    "hcgnet_imagenet",
    partial(hcgnet, imagenet_stem=True),
    pattern=r"hcgnet_(?:(?P<variant>[bc])"
    rf"|imagenet_n(?P<modules>{_NUMBERS})_k(?P<growth_rate>{_NUMBERS}))",
    input_shape=(224, 224, 3),
    num_classes=1000,
    **_FAMILY,
)
