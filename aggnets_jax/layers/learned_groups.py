"""Convolutions whose groups are learnt, and their condensed form (CondenseNet).

Paper: Huang et al., "CondenseNet: An Efficient DenseNet using Learned Group Convolutions", CVPR
2018, arXiv 1711.09224.

Output o of a convolution belongs to group o mod C. A condensing step removes from each group the
in//C inputs with the smallest sums of absolute weights. A removed weight is exactly 0.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from aggnets_jax.layers import common

GROUPS = 4
"""C, the groups of all convolutions in layers."""

LEARNED = "learned_conv"
"""Name of the modules whose groups are learnt."""


def lost(kernel: jax.Array, steps: int | jax.Array) -> jax.Array:
    """Return which weights [1, 1, in, out] of a learnt group convolution are lost after steps."""
    *_, channels, features = kernel.shape
    strength = jnp.abs(kernel).reshape(channels, features // GROUPS, GROUPS).sum(1)
    ranks = jnp.argsort(jnp.argsort(strength, axis=0, stable=True), axis=0)
    by_group = ranks < steps * (channels // GROUPS)
    return jnp.tile(by_group, features // GROUPS).reshape(kernel.shape)


class LearnedGroupConv(nn.Conv):
    """A convolution in which weights that are exactly 0 have no gradient."""

    @nn.nowrap
    def param(self, *arguments: Any, **keywords: Any) -> Any:
        """Return the parameter; it gets no gradient where it is 0."""
        value = super().param(*arguments, **keywords)
        return jnp.where(value == 0, jax.lax.stop_gradient(value), value)


class CondensedConv(nn.Module):
    """The condensed form: select in//C inputs for each group, BN-ReLU, grouped 1x1, shuffle.

    Attributes:
      features: channels of the output.
      norm: makes batch normalisations.
      conv: makes convolutions.
    """

    features: int
    norm: common.Norm
    conv: common.Conv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> [batch, height, width, features]."""
        kept = x.shape[-1] // GROUPS
        selected = self.variable(
            "selection", "index", lambda: jnp.tile(jnp.arange(kept, dtype=jnp.int32), GROUPS)
        )
        x = nn.relu(self.norm(name="norm")(x[..., selected.value]))
        x = self.conv(self.features, 1, groups=GROUPS, name="conv")(x)
        return common.shuffle(x, GROUPS)
