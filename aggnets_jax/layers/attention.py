"""Attention to channels and positions, by which a block scales what it computed.

Papers: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, arXiv 1709.01507, and Woo et al.,
"CBAM: Convolutional Block Attention Module", ECCV 2018, arXiv 1807.06521.

    SE    x * sigmoid(MLP(average(x)))
    CBAM  x' = x * sigmoid(MLP(average(x)) + MLP(maximum(x)))       over positions, by channel
          x' * sigmoid(BN(conv7x7([max(x') || mean(x')])))          over channels, by position

    x --+-- pool -- C/16 -- ReLU -- C -- sigmoid --(*)--
        |                                           |
        +-------------------------------------------+

MLP is a linear layer to a sixteenth of the channels, ReLU, and one back, both with biases. As in
the code of CBAM the scale of its normalisation starts at 0, so that the gate of positions halves
everything at first, and 0.99 of its running averages are kept at each step.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from aggnets_jax.layers import common

REDUCTION = 16


class ChannelGate(nn.Module):
    """Linear(C / 16)-ReLU-Linear(C) of each pooled vector, added, sigmoid.

    Attributes:
      dtype: in which to compute.
    """

    dtype: DTypeLike

    @nn.compact
    def __call__(self, *pooled: jax.Array) -> jax.Array:
        """[batch, C] each -> [batch, 1, 1, C] between 0 and 1."""
        channels = pooled[0].shape[-1]

        def linear(features: int, name: str) -> nn.Dense:
            return nn.Dense(
                features, dtype=self.dtype, kernel_init=common.uniform_fan_in, name=name
            )

        squeeze = linear(max(1, channels // REDUCTION), "squeeze")
        excite = linear(channels, "excite")
        gate = nn.sigmoid(sum(excite(nn.relu(squeeze(x))) for x in pooled))
        return gate[:, None, None, :]


class SqueezeExcite(nn.Module):
    """Scales channels by a function of their averages.

    Attributes:
      dtype: in which to compute.
    """

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same shape."""
        return x * ChannelGate(self.dtype, name="channels")(common.global_average(x))


def _largest(x: jax.Array, axis: int) -> jax.Array:
    """`jnp.max(x, axis, keepdims=True)`, from where the maximum is.

    The gradient of `jnp.max` looks for values equal to the maximum. Where XLA computes them again,
    rounded in another way, it finds none and divides by 0.
    """
    return jnp.take_along_axis(x, jnp.argmax(x, axis, keepdims=True), axis)


class CBAM(nn.Module):
    """Scales channels by their averages and maxima, then positions by those over the channels.

    Attributes:
      norm: makes batch normalisations.
      conv: makes convolutions.
      dtype: in which to compute.
    """

    norm: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same shape."""
        pooled = (
            common.global_average(x),
            _largest(x.reshape(x.shape[0], -1, x.shape[-1]), 1)[:, 0],
        )
        x = x * ChannelGate(self.dtype, name="channels")(*pooled)
        pooled = (_largest(x, -1), jnp.mean(x, axis=-1, keepdims=True))
        gate = self.conv(1, 7, name="conv")(jnp.concatenate(pooled, axis=-1))
        norm = self.norm(momentum=0.99, scale_init=nn.initializers.zeros, name="norm")
        return x * nn.sigmoid(norm(gate))


def _squeeze_excite(
    norm: Callable[..., nn.Module], conv: Callable[..., nn.Module], dtype: DTypeLike
) -> Callable[..., nn.Module]:
    del norm, conv
    return partial(SqueezeExcite, dtype)


def _cbam(
    norm: Callable[..., nn.Module], conv: Callable[..., nn.Module], dtype: DTypeLike
) -> Callable[..., nn.Module]:
    return partial(CBAM, norm, conv, dtype)


# What makes modules, from what makes batch normalisations and convolutions, and the dtype.
ATTENTIONS: dict[str, Callable[..., Callable[..., nn.Module]]] = {
    "se": _squeeze_excite,
    "cbam": _cbam,
}
