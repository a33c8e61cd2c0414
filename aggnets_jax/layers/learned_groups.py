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

from aggnets_jax.errors import UserError
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


def kept_inputs(kernel: jax.Array) -> jax.Array:
    """Return the inputs [C, in//C] that the groups of a kernel [1, 1, in, out] have kept, int32.

    Raises:
      UserError: if a group has lost too few.
    """
    *_, channels, features = kernel.shape
    used = jnp.any(kernel.reshape(channels, features // GROUPS, GROUPS) != 0, axis=1)
    if int(used.sum(0).max()) > channels // GROUPS:
        raise UserError("a network can be exported only after all condensing steps; see `condense`")
    index = jnp.argsort(~used, axis=0, stable=True)[: channels // GROUPS]
    return jnp.sort(index, axis=0).T.astype(jnp.int32)


def grouped_kernel(kernel: jax.Array, kept: jax.Array) -> jax.Array:
    """Return the kernel [1, 1, in//C, out] of the grouped convolution of the kept inputs."""
    by_group = kernel.reshape(kernel.shape[2], -1, GROUPS)
    parts = [by_group[index, :, g] for g, index in enumerate(kept)]
    return jnp.concatenate(parts, axis=-1)[None, None]


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
