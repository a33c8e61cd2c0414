"""Attention: a block scales its output by functions of pooled channels and positions.

Papers: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, arXiv 1709.01507, and Woo et al.,
"CBAM: Convolutional Block Attention Module", ECCV 2018, arXiv 1807.06521.

    SE    x * sigmoid(MLP(average(x)))
    CBAM  x' = x * sigmoid(MLP(average(x)) + MLP(maximum(x)))       over positions, by channel
          x' * sigmoid(BN(conv7x7([max(x') || mean(x')])))          over channels, by position

    x --+-- pool -- C/16 -- ReLU -- C -- sigmoid --(*)--
        |                                           |
        +-------------------------------------------+

MLP is a linear layer to a sixteenth of the channels, ReLU, and a linear layer back, both with
biases. As in the authors' code of CBAM, the scale of its normalisation starts at 0, so the gate of
positions starts at 1/2, and each step keeps 0.99 of the running averages.

The forget and update gates of HCGNet (Yang et al., AAAI 2020, arXiv 1908.09699; `smg.py`) scale the
output of a block in the same way, with hidden layers of a sixteenth of their inputs:

    forget_gate   x f(x)
    update_gate   x + v(A, B)
    gates         x f(x) + v(A, B)
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from aggnets_jax.layers import common
from aggnets_jax.layers.smg import Gated

REDUCTION = 16


class ChannelGate(nn.Module):
    """A gate for each channel: Linear(C / 16)-ReLU-Linear(C), summed over the inputs, sigmoid."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, *pooled: jax.Array) -> jax.Array:
        """Map pooled features, each [batch, C], to gates [batch, 1, 1, C] between 0 and 1."""
        channels = pooled[0].shape[-1]
        linear = partial(nn.Dense, dtype=self.dtype, kernel_init=common.uniform_fan_in)
        squeeze = linear(max(1, channels // REDUCTION), name="squeeze")
        excite = linear(channels, name="excite")
        gate = nn.sigmoid(sum(excite(nn.relu(squeeze(x))) for x in pooled))
        return gate[:, None, None, :]


class SqueezeExcite(nn.Module):
    """Scales channels by a function of their averages."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Scale x [batch, height, width, channels]."""
        return x * ChannelGate(self.dtype, name="channels")(common.global_average(x))


class CBAM(nn.Module):
    """Scales channels by their averages and maxima, then positions likewise over the channels."""

    norm: common.Norm
    conv: common.Conv
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Scale x [batch, height, width, channels]."""
        positions = x.reshape(x.shape[0], -1, x.shape[-1])
        pooled = common.global_average(x), largest(positions, 1)[:, 0]
        x = x * ChannelGate(self.dtype, name="channels")(*pooled)
        pooled = (largest(x, -1), jnp.mean(x, axis=-1, keepdims=True))
        gate = self.conv(1, 7, name="conv")(jnp.concatenate(pooled, axis=-1))
        norm = self.norm(momentum=0.99, scale_init=nn.initializers.zeros, name="norm")
        return x * nn.sigmoid(norm(gate))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def largest(x: jax.Array, axis: int) -> jax.Array:
    """Return `jnp.max(x, axis, keepdims=True)`, whose gradient goes to the first maximum.

    The gradient of `jnp.max` searches for values equal to the maximum. If XLA recomputes them with
    another rounding it finds none, and divides by 0.
    """
    return jnp.max(x, axis, keepdims=True)


@largest.defjvp
def _first_largest(axis: int, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (change,) = primals, tangents
    place = jnp.argmax(x, axis, keepdims=True)
    return tuple(jnp.take_along_axis(part, place, axis) for part in (x, change))  # type: ignore[return-value]


ATTENTIONS: dict[str, Callable[..., Callable[..., nn.Module]]] = {
    "se": lambda norm, conv, dtype: partial(SqueezeExcite, dtype),
    "cbam": lambda norm, conv, dtype: partial(CBAM, norm, conv, dtype),
    "forget_gate": lambda norm, conv, dtype: partial(Gated, norm, conv, True, False, REDUCTION),
    "update_gate": lambda norm, conv, dtype: partial(Gated, norm, conv, False, True, REDUCTION),
    "gates": lambda norm, conv, dtype: partial(Gated, norm, conv, True, True, REDUCTION),
}
"""`ATTENTIONS[name](norm, conv, dtype)` makes modules, from functions that make normalisations and
convolutions."""
