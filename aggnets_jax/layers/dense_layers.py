"""Layers of DenseNets and of the transitions between their stages.

Paper: Huang et al., "Densely Connected Convolutional Networks", CVPR 2017, arXiv 1608.06993.
"""

from collections.abc import Callable
from functools import partial

import jax
from flax import linen as nn

from aggnets_jax.connectivity.aggregation import Masked
from aggnets_jax.layers import common


class DenseLayer(nn.Module):
    """The unit: BN-ReLU-conv3x3(k), with bottleneck BN-ReLU-conv1x1(4k) before it.

    k is the growth rate. The 3x3 convolution is grouped; channel dropout follows each convolution.
    """

    growth_rate: int
    bottleneck: bool
    groups: int
    norm: common.Norm
    conv: common.Conv
    dropout: Callable[[], nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array | Masked) -> jax.Array:
        """[batch, height, width, channels] -> [batch, height, width, growth_rate]."""
        conv3x3 = partial(self.conv, self.growth_rate, 3, groups=self.groups)
        x = common.activate(self.norm(name="norm1"), x)
        if not self.bottleneck:
            return self.dropout()(conv3x3(name="conv1")(x))
        x = self.dropout()(self.conv(4 * self.growth_rate, 1, name="conv1")(x))
        x = nn.relu(self.norm(name="norm2")(x))
        return self.dropout()(conv3x3(name="conv2")(x))


class Transition(nn.Module):
    """BN-ReLU-conv1x1(floor(theta * channels), at least `least`)-average pool 2x2."""

    compression: float
    norm: common.Norm
    conv: common.Conv
    least: int = 0

    @nn.compact
    def __call__(self, x: jax.Array | Masked) -> jax.Array:
        """[batch, height, width, channels] -> [batch, height / 2, width / 2, theta * channels]."""
        x = common.activate(self.norm(name="norm"), x)
        features = common.compressed(x.shape[-1], self.compression, least=self.least)
        return common.average_pool_of(self.conv(features, 1, name="conv"), x)
