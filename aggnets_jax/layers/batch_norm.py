"""Batch normalisation by statistics that are given, or computed here.

Ioffe and Szegedy, "Batch Normalization", ICML 2015, arXiv 1502.03167. As `nn.BatchNorm`, to the
bit, with its variables; only that layers which normalise the same features can share their
statistics, which `nn.BatchNorm` can't be given.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from aggnets_jax.connectivity.aggregation import Affine
from aggnets_jax.connectivity.features import WithStatistics, batch_statistics, without_statistics


class BatchNorm(nn.Module):
    """(x - mean) / sqrt(var + epsilon) * scale + bias, by channel.

    Parameters `scale` and `bias` [channels]; running averages `mean` and `var` [channels] in the
    collection "batch_stats". All are float32, or of a wider type of x.

    Attributes:
      use_running_average: rather than the statistics of the batch.
      dtype: of the result.
      momentum: what is kept of the running averages at each step.
      epsilon: see above.
      use_bias: whether there is one.
      use_scale: whether there is one.
      scale_init: of the scale.
      axis_name: of a mapped axis over which the batch is divided, if it is.
    """

    use_running_average: bool
    dtype: DTypeLike
    momentum: float = 0.9
    epsilon: float = 1e-5
    use_bias: bool = True
    use_scale: bool = True
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array | WithStatistics) -> jax.Array:
        """Normalise [..., channels] by the statistics that x has, or else by its own."""
        mean, var = self.statistics(x)
        features = without_statistics(x)
        shape = features.shape[-1:]
        # In this order gradients are rounded as those of `nn.BatchNorm` are.
        y = features - mean
        factor = jax.lax.rsqrt(var + self.epsilon)
        if self.use_scale:
            factor *= self.param("scale", self.scale_init, shape)
        y *= factor
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, shape)
        return y.astype(self.dtype)

    def statistics(self, x: jax.Array | WithStatistics) -> tuple[jax.Array, jax.Array]:
        """Mean and variance to normalise by, [channels]; updates the running averages."""
        shape = without_statistics(x).shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        if self.use_running_average:
            return running_mean.value, running_var.value
        if isinstance(x, WithStatistics):
            mean, var = x.mean, x.var
        else:
            axis_name = None if self.is_initializing() else self.axis_name
            mean, var = batch_statistics(x, axis_name)
        if not self.is_initializing():
            for running, now in ((running_mean, mean), (running_var, var)):
                running.value = self.momentum * running.value + (1 - self.momentum) * now
        return mean, var


class AffineBatchNorm(BatchNorm):
    """The same without scale and bias, as the map that it is."""

    @nn.compact
    def __call__(self, x: jax.Array) -> Affine:
        """[..., channels] -> factor and shift [channels]."""
        mean, var = self.statistics(x)
        factor = jax.lax.rsqrt(var + self.epsilon)
        return Affine(factor, -mean * factor)
