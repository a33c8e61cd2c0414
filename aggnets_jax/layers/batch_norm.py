"""Batch normalisation that takes statistics computed elsewhere.

Ioffe and Szegedy, "Batch Normalization", ICML 2015, arXiv 1502.03167. The variables are those of
`nn.BatchNorm`. In addition, layers that normalise the same features can share statistics, and the
variance keeps its digits if the mean is far from 0 (see `features.shifted_moments`).
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from aggnets_jax.connectivity.aggregation import Affine
from aggnets_jax.connectivity.features import (
    WithStatistics,
    batch_statistics,
    parts_of_batch,
    without_statistics,
)
from aggnets_jax.errors import UserError

TOO_SMALL = "images are too small for this network"


class BatchNorm(nn.Module):
    """(x - mean) / sqrt(var + epsilon) * scale + bias, by channel.

    Parameters `scale` and `bias` [channels]; running averages `mean` and `var` [channels] in the
    collection "batch_stats". All are float32, or wider if x is.

    Attributes:
      use_running_average: whether to normalise by the running averages and not by the batch.
      dtype: dtype of the result.
      momentum: share of the running averages that each step keeps.
    """

    use_running_average: bool
    dtype: DTypeLike
    momentum: float = 0.9
    epsilon: float = 1e-5
    use_bias: bool = True
    use_scale: bool = True
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array | WithStatistics) -> jax.Array:
        """Normalise [..., channels] by the statistics that x has, or else by its own."""
        mean, var = self.statistics(x)
        features = without_statistics(x)
        shape = features.shape[-1:]
        # In this order gradients are rounded as in `nn.BatchNorm`.
        y = features - mean
        factor = jax.lax.rsqrt(var + self.epsilon)
        if self.use_scale:
            factor *= self.param("scale", self.scale_init, shape)
        y *= factor
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, shape)
        return y.astype(self.dtype)

    def statistics(self, x: jax.Array | WithStatistics) -> tuple[jax.Array, jax.Array]:
        """Return mean and variance [channels] to normalise by; update the running averages."""
        *positions, channels = without_statistics(x).shape
        shape = (channels,)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        if self.use_running_average:
            return running_mean.value, running_var.value
        if not self.is_initializing():
            self._check_values(positions)
        if isinstance(x, WithStatistics):
            mean, var = x.mean, x.var
        else:
            mean, var = batch_statistics(x)
        if not self.is_initializing():
            for running, now in ((running_mean, mean), (running_var, var)):
                running.value = self.momentum * running.value + (1 - self.momentum) * now
        return mean, var

    def _check_values(self, shape: Sequence[int]) -> None:
        """Raise `UserError` unless there are two values or more of each channel to normalise by."""
        images, positions = shape[0] * parts_of_batch(), math.prod(shape[1:])
        if not positions:
            size = "x".join(map(str, shape[1:]))
            raise UserError(f"{TOO_SMALL}: {'/'.join(self.path)!r} gets a map of {size}")
        if images * positions < 2:
            raise OneValue("/".join(self.path))


class OneValue(UserError):
    """A batch with one value of each channel, which a normalisation in training makes 0."""

    def __init__(self, path: str, least: str = "2 images in each part of a batch") -> None:
        super().__init__(
            f"the normalisation {path!r} gets one value of each channel and would always return"
            f" its bias, without a gradient; the smallest batch is {least}"
        )
        self.path = path


class AffineBatchNorm(BatchNorm):
    """Batch normalisation without scale and bias, returned as a map instead of applied."""

    @nn.compact
    def __call__(self, x: jax.Array) -> Affine:
        """Return the map of x [..., channels]: factor and shift [channels]."""
        mean, var = self.statistics(x)
        factor = jax.lax.rsqrt(var + self.epsilon)
        return Affine(factor, -mean * factor)
