"""Common parts of networks, and the conventions that all networks share.

* Convolutions pad symmetrically, by (kernel - 1) / 2 * dilation on each side, also with stride 2,
  where XLA's "SAME" would pad (0, 1) on even inputs.
* Batch normalisation has epsilon 1e-5 and keeps 0.9 of its running averages at each step. The
  running variance is the biased one.
* The computation is in `dtype`; parameters are float32, and batch statistics and logits at least
  float32. With float64 parameters and `dtype=float64` everything is float64.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from aggnets_jax.connectivity.execution import CONVOLUTION
from aggnets_jax.connectivity.features import Masked, WithStatistics, without_statistics
from aggnets_jax.errors import UserError
from aggnets_jax.layers.batch_norm import TOO_SMALL, BatchNorm
from aggnets_jax.layers.convolution import convolve
from aggnets_jax.layers.pooling import avg_pool, max_pool
from aggnets_jax.runtime.compilation import backend

Norm = Callable[..., nn.Module]
"""`norm(name=...)` makes a batch normalisation, see `batch_norm`."""

Conv = Callable[..., nn.Module]
"""`conv(features, kernel_size, stride=..., name=...)` makes a convolution, see `conv`."""

he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""Normal with standard deviation sqrt(2 / (kh * kw * out)) (He et al., arXiv 1502.01852)."""

he_fan_out_uniform = nn.initializers.variance_scaling(2.0, "fan_out", "uniform")
"""U(+-sqrt(6 / (kh * kw * out)))."""

uniform_fan_out = nn.initializers.variance_scaling(1.0, "fan_out", "uniform")
"""U(+-sqrt(3 / out))."""

uniform_fan_in = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""U(+-1 / sqrt(in)), PyTorch's default for linear layers."""


def uniform_bias(fan_in: int) -> nn.initializers.Initializer:
    """Return PyTorch's initializer U(+-1 / sqrt(fan_in)) for the biases of linear layers."""
    bound = fan_in**-0.5

    def draw(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw


def as_images(images: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Return the input of a network in the dtype of its computation.

    Raises:
      UserError: unless the images are [batch, height, width, channels]; also for PyTorch's order,
        [batch, channels, height, width], if there are 1 or 3 channels.
    """
    images = jnp.asarray(images, dtype)
    wanted = "images must be [batch, height, width, channels]"
    if images.ndim != 4:
        raise UserError(f"{wanted}, got the shape {images.shape}")
    _, height, width, channels = images.shape
    if height in (1, 3) and min(width, channels) > 4:
        raise UserError(
            f"{wanted}, got the shape {images.shape}; PyTorch has the channels first:"
            " images.transpose(0, 2, 3, 1)"
        )
    return images


def conv(
    features: int,
    kernel_size: int | tuple[int, int],
    *,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
    padding: int | str | Sequence[tuple[int, int]] | None = None,
    dtype: DTypeLike,
    kernel_init: nn.initializers.Initializer = he_fan_out,
    bias_init: nn.initializers.Initializer | None = None,
    name: str,
) -> nn.Conv:
    """Make a convolution, with a bias if `bias_init` is given; groups divide features.

    A square one pads symmetrically unless `padding` is given, such as "SAME"; another needs it.
    """
    if features % groups:
        raise UserError(f"{features} features are not divisible by {groups} groups")
    return nn.Conv(
        features,
        kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size),
        strides=stride,
        padding=(kernel_size - 1) // 2 * dilation if padding is None else padding,
        kernel_dilation=dilation,
        feature_group_count=groups,
        use_bias=bias_init is not None,
        dtype=dtype,
        kernel_init=kernel_init,
        bias_init=bias_init,
        conv_general_dilated=_named_convolve,
        name=name,
    )


def _named_convolve(*arguments: Any, **keywords: Any) -> jax.Array:
    """Call `convolve` and name the result, so that rematerialisation can keep it."""
    return checkpoint_name(convolve(*arguments, **keywords), CONVOLUTION)


def batch_norm(*, train: bool, dtype: DTypeLike) -> Callable[..., BatchNorm]:
    """Return the maker of normalisations: by the batch in training, else by running averages."""
    return partial(BatchNorm, use_running_average=not train, dtype=dtype)


def activate(
    norm: Callable[[jax.Array | WithStatistics], jax.Array],
    x: jax.Array | WithStatistics | Masked,
    activation: Callable[[jax.Array], jax.Array] = nn.relu,
) -> jax.Array:
    """Return activation(norm(x)), multiplied by the mask of x if it has one.

    Preactivated layers and the readers of their stages start with this, so that links can be
    masked.
    """
    if isinstance(x, Masked):
        return x.replace(features=activation(norm(x.features))).applied()
    return activation(norm(x))


def masked(x: jax.Array | WithStatistics | Masked) -> jax.Array:
    """Return x, multiplied by its mask if it has one, for readers that don't normalise it."""
    return x.applied() if isinstance(x, Masked) else without_statistics(x)


def features_of(x: jax.Array | WithStatistics | Masked) -> jax.Array:
    """Return the features of a stage's output without mask and statistics, for the endpoints."""
    return without_statistics(x.features if isinstance(x, Masked) else x)


def channel_dropout(rate: float, *, train: bool) -> nn.Dropout:
    """Make a module that drops whole channels of [batch, height, width, channels]."""
    return nn.Dropout(rate, broadcast_dims=(1, 2), deterministic=not train)


def branch_dropout(rate: float, *, train: bool, name: str | None = None) -> nn.Dropout:
    """Make a module that drops an image's whole residual branch with probability `rate`."""
    return nn.Dropout(rate, broadcast_dims=(1, 2, 3), deterministic=not train, name=name)


def stochastic_depth(rate: float, blocks: int, *, train: bool) -> Callable[[int], nn.Dropout]:
    """Return `drop(block)`, which makes the module that drops the branch of block 1, ..., `blocks`.

    The probability is rate * block / blocks (Huang et al., "Deep Networks with Stochastic Depth",
    ECCV 2016, arXiv 1603.09382, Section 3). Unlike there, images are dropped one by one, and
    branches are scaled up in training rather than down in evaluation.
    """
    # Random numbers depend on the module's name, so each block needs another one.
    return lambda block: branch_dropout(
        rate * block / blocks, train=train, name=f"branch_dropout{block}"
    )


def imagenet_stem(
    x: jax.Array, features: int, *, kernel_size: int = 7, norm: Norm, conv: Conv
) -> jax.Array:
    """Compute convolution-BN-ReLU-maxpool3x3, both at stride 2, with `stem_conv` and `stem_norm`.

    Maps x [batch, height, width, channels] to [batch, height / 4, width / 4, features].
    """
    x = conv(features, kernel_size, stride=2, name="stem_conv")(x)
    x = nn.relu(norm(name="stem_norm")(x))
    return max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def deep_stem(x: jax.Array, features: int, *, norm: Norm, conv: Conv) -> jax.Array:
    """Compute [conv3x3-BN-ReLU] x 3, the first at stride 2, the last with twice the channels.

    Maps x [batch, height, width, channels] to [batch, height / 2, width / 2, features], with
    `stem_conv1`, `stem_norm1` and so on. Raise `UserError` for an odd number of features.
    """
    if features % 2:
        raise UserError(f"stem_features must be an even number, got {features}")
    half = features // 2
    for i, (width, stride) in enumerate(((half, 2), (half, 1), (features, 1)), 1):
        x = conv(width, 3, stride=stride, name=f"stem_conv{i}")(x)
        x = nn.relu(norm(name=f"stem_norm{i}")(x))
    return x


def shuffle(x: jax.Array, groups: int) -> jax.Array:
    """Deal the channels [..., (groups, n)] out as [..., (n, groups)] (ShuffleNet, 1707.01083)."""
    *shape, channels = x.shape
    return x.reshape(*shape, groups, channels // groups).swapaxes(-1, -2).reshape(x.shape)


def compressed(channels: int, compression: float, *, least: int = 0) -> int:
    """Return floor(compression * channels), but at least `least`; raise `UserError` if it is 0."""
    # In decimals, because 0.29 * 100 is 28.999999999999996 in floating point.
    features = max(math.floor(Fraction(str(compression)) * channels), least)
    if not features:
        raise UserError(
            f"compression {compression} leaves none of {channels} channels; allowed: at least"
            f" {math.ceil(1000 / channels) / 1000}"
        )
    return features


def average_pool_of(conv: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Return the 2x2 average pool, at stride 2, of a 1x1 convolution without bias.

    On a TPU the pool comes first: the result is equal up to rounding, and the convolution and its
    gradients have a quarter of the positions (docs/decisions.md).
    """
    pool = partial(avg_pool, window=(2, 2), strides=(2, 2))
    return conv(pool(x)) if backend() == "tpu" else pool(conv(x))


def global_average(x: jax.Array) -> jax.Array:
    """Average over positions: [batch, height, width, channels] -> [batch, channels].

    Raise `UserError` if there are none.
    """
    if 0 in x.shape[1:3]:
        raise UserError(f"{TOO_SMALL}: its last map is {x.shape[1]}x{x.shape[2]}")
    return jnp.mean(x, axis=(1, 2))


def average_and_flatten(x: jax.Array) -> jax.Array:
    """Average 2x2 positions at stride 2 and flatten to [batch, channels * positions].

    A 7x7 map gives nine values per channel, as the parameter counts of SparseNet, Table 4, require.
    Channels come first, as in PyTorch, so that its weights need no permutation.
    """
    pooled = nn.avg_pool(x, (2, 2), strides=(2, 2))
    if 0 in pooled.shape:
        raise UserError(f"{TOO_SMALL}: its last map is {x.shape[1]}x{x.shape[2]}")
    return pooled.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


POOLS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "global": global_average,
    "flatten": average_and_flatten,
}


def classify(
    x: jax.Array,
    endpoints: dict[str, jax.Array],
    num_classes: int,
    *,
    dtype: DTypeLike,
    pool: Callable[[jax.Array], jax.Array] = global_average,
    dropout: Callable[[jax.Array], jax.Array] | None = None,
    kernel_init: nn.initializers.Initializer = uniform_fan_in,
    bias_init: nn.initializers.Initializer = nn.initializers.zeros,
    use_bias: bool = True,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Apply the end of a network: pooling, dropout, and the linear layer `classifier`.

    The pool maps x [batch, height, width, channels] of this dtype to [batch, features].

    Returns:
      Logits [batch, num_classes], at least float32, and the given endpoints with `pre_logits_2d`,
      `pre_logits` and `logits`.
    """
    endpoints["pre_logits_2d"] = x
    x = endpoints["pre_logits"] = pool(x)
    if dropout is not None:
        x = dropout(x)
    logits = endpoints["logits"] = nn.Dense(
        num_classes,
        dtype=jnp.promote_types(dtype, jnp.float32),
        kernel_init=kernel_init,
        bias_init=bias_init,
        use_bias=use_bias,
        name="classifier",
    )(x)
    return logits, endpoints
