"""Blocks of PyramidNets: units F of any kind, added to a shortcut padded with zeros.

Paper: Han et al., "Deep Pyramidal Residual Networks", CVPR 2017, arXiv 1610.02915.

    x_k = pad(x_{k-1}) + F_k(x_{k-1})

F is BN-conv3x3-BN-ReLU-conv3x3-BN, or as a bottleneck BN-conv1x1-BN-ReLU-conv3x3-BN-ReLU-
conv1x1-BN. Another `Block` makes other units, such as micro-dense blocks.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from aggnets_jax.connectivity.aggregation import pad_channels
from aggnets_jax.connectivity.topology import Topology
from aggnets_jax.layers.common import Conv, Norm
from aggnets_jax.layers.pooling import avg_pool, check_even


class Branch(nn.Module):
    """A residual branch F; `features` are the channels of its output."""

    features: int
    stride: int
    norm: Norm
    conv: Conv


class Basic(Branch):
    """The unit F: BN-conv3x3(stride)-BN-ReLU-conv3x3-BN."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same divided by the stride, `features` wide."""
        x = self.norm(name="norm1")(x)
        x = self.conv(self.features, 3, stride=self.stride, name="conv1")(x)
        x = self.conv(self.features, 3, name="conv2")(nn.relu(self.norm(name="norm2")(x)))
        return self.norm(name="norm3")(x)


class Bottleneck(Branch):
    """The unit F: BN-conv1x1-BN-ReLU-conv3x3(stride)-BN-ReLU-conv1x1(4 times as wide)-BN."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same divided by the stride, `features` wide."""
        width = self.features // 4
        x = self.conv(width, 1, name="conv1")(self.norm(name="norm1")(x))
        x = nn.relu(self.norm(name="norm2")(x))
        x = self.conv(width, 3, stride=self.stride, name="conv2")(x)
        x = nn.relu(self.norm(name="norm3")(x))
        return self.norm(name="norm4")(self.conv(self.features, 1, name="conv3")(x))


class Block:
    """Makes the units F of a `PyramidNet`; blocks that make the same units are equal.

    `block(features, stride=..., norm=..., conv=..., name=...)` makes F: [batch, height, width,
    channels] -> the same / stride, `features` wide.

    Attributes:
      topologies: topologies within one block.
    """

    topologies: tuple[Topology, ...] = ()


@dataclasses.dataclass(frozen=True)
class PyramidBlock(Block):
    """Makes `Bottleneck` or `Basic`."""

    bottleneck: bool

    def __call__(self, features: int, **arguments: Any) -> nn.Module:
        """See `Block`."""
        return (Bottleneck if self.bottleneck else Basic)(features, **arguments)


def joined(
    unit: Callable[[jax.Array], jax.Array],
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Return the layer pad(shortcut) + unit(x) of a stage with shortcuts."""

    def layer(x: jax.Array, shortcut: jax.Array) -> jax.Array:
        residual = unit(x)
        return pad_channels(shortcut, residual.shape[-1]) + residual

    return layer


def average_halves(x: jax.Array) -> jax.Array:
    """Return [batch, height / 2, width / 2, channels], by 2x2 averages; see `check_even`."""
    check_even(x)
    return avg_pool(x, (2, 2), strides=(2, 2))
