"""Regularisations whose strength changes during training.

Each layer reads its strength from the variable `value`, a float32 scalar, in the collection
"strength". The training step sets it (`training/regularisation_schedules.py`); without it, the
strength is 0. Evaluation is not regularised.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from aggnets_jax.arguments import check_number
from aggnets_jax.connectivity.execution import Execution
from aggnets_jax.errors import UserError
from aggnets_jax.layers import common


def current_strength(module: nn.Module) -> jax.Array | float:
    """Return the strength of this step; the variable is made when the network is initialised."""
    if module.is_initializing():
        module.variable("strength", "value", jnp.zeros, (), jnp.float32)
    return module.get_variable("strength", "value", 0.0)


class DropBlock(nn.Module):
    """Drop squares of an image's feature maps, alike in all channels, and scale up the rest.

    Ghiasi et al., "DropBlock: A regularization method for convolutional networks", NeurIPS 2018,
    arXiv 1810.12890, Algorithm 1. Each square within the map is dropped with the probability

        gamma = strength / block_size^2 * (height * width) / ((height - block_size + 1) * (...))

    so that a position would be dropped with probability `strength` if squares never overlapped.

    Attributes:
      block_size: side of the squares in positions, cut to the side of the map; 1 drops positions.
      train: whether to drop.
    """

    block_size: int
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Drop squares of [batch, height, width, channels]; draws from the rng "dropout"."""
        strength = current_strength(self)
        if not self.train:
            return x
        batch, *sides, _ = x.shape
        blocks = [min(self.block_size, side) for side in sides]
        corners = [side - block + 1 for side, block in zip(sides, blocks, strict=True)]
        gamma = strength * (sides[0] * sides[1] / blocks[0] / blocks[1] / corners[0] / corners[1])
        shape = (batch, *corners, 1)
        begins = jax.random.bernoulli(self.make_rng("dropout"), jnp.minimum(gamma, 1.0), shape)
        # A position is dropped if any square that contains it is.
        pads = [(block - 1, block - 1) for block in blocks]
        dropped = nn.max_pool(begins.astype(jnp.float32), tuple(blocks), padding=pads)
        kept = 1 - dropped
        scale = kept.size / jnp.maximum(kept.sum(), 1)
        return x * (kept * scale).astype(x.dtype)


class DynamicScale(nn.Module):
    """Scale the output of a residual branch by A + d u in training, and by A in evaluation.

    d is the strength. u ~ U(-reach, reach) is drawn for each image, once for the forward and once
    for the backward pass. Wang et al., "Convolutional Neural Networks with Dynamic Regularization",
    arXiv 1909.11862.

    Attributes:
      scale: A.
      reach: l / L for block l of L.
      train: whether scales are random.
    """

    scale: float
    reach: float
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Scale [batch, ...]; draws from the rng "dropout"."""
        strength = current_strength(self)
        if not self.train:
            return x if self.scale == 1 else self.scale * x
        shape = (2, x.shape[0], *[1] * (x.ndim - 1))
        key = self.make_rng("dropout")
        u = jax.random.uniform(key, shape, minval=-self.reach, maxval=self.reach)
        return _scaled(x, *(self.scale + strength * u).astype(x.dtype))


def regularised_branches(
    network: Any, blocks: int, *, train: bool
) -> Callable[[int, str], Callable[[jax.Array], jax.Array]]:
    """Return `regularise(block, name)`: it makes the function to apply to F of block 1, 2, ...

    The fields `stochastic_depth`, `dynamic_regularisation` and `branch_scale` of the network say
    what the function does to F.
    """
    drop = common.stochastic_depth(network.stochastic_depth, blocks, train=train)

    def regularise(block: int, name: str) -> Callable[[jax.Array], jax.Array]:
        dropout = drop(block)
        if not network.dynamic_regularisation:
            return dropout
        scale = DynamicScale(network.branch_scale, block / blocks, train, name=f"{name}_scale")
        return lambda x: scale(dropout(x))

    return regularise


def execution_of_branches(network: Any) -> Execution:
    """Return how the stages are computed: not in loops if each layer has a strength, a variable."""
    if network.dynamic_regularisation:
        return dataclasses.replace(network.execution, scan=False)
    return network.execution


def check_branches(network: Any) -> None:
    """Raise `UserError` if a field that `regularised_branches` reads is out of range."""
    check_number("stochastic_depth", network.stochastic_depth, 0, 0.99)
    check_number("branch_scale", network.branch_scale, 0.01, 100)
    if network.branch_scale != 1 and not network.dynamic_regularisation:
        raise UserError("branch_scale needs dynamic_regularisation=True")


@jax.custom_vjp
def _scaled(x: jax.Array, forward: jax.Array, backward: jax.Array) -> jax.Array:
    """Multiply x by `forward`, and its gradient by `backward`."""
    del backward
    return forward * x


_scaled.defvjp(
    lambda x, forward, backward: (forward * x, backward),
    lambda backward, gradient: (backward * gradient, None, None),
)
