"""Pruning by magnitude: "ResNet-50 Pruned" of SparseNet, Table 4.

Han et al., "Deep Compression", ICLR 2016, arXiv 1510.00149, and Han et al., "Learning both Weights
and Connections for Efficient Neural Networks", NeurIPS 2015, arXiv 1506.02626: the weights of
smallest absolute value are set to 0, and the others trained further. The table prints 7.47M of
25.5M parameters, 29.2 %, but not how many remain in each layer. Here each kernel keeps the same
share, which is our choice.
"""

from typing import Any

import jax
import jax.numpy as jnp

from aggnets_jax.arguments import check_whole_number


def is_kernel(weights: jax.Array) -> bool:
    """Return whether parameters are a kernel, not a bias or the scale of a norm."""
    return jnp.ndim(weights) > 1


def masks(params: Any, kept: int) -> Any:
    """Return which parameters remain, bool like each, so that `kept` scalars do in all.

    All biases and norms remain, and of each kernel the same share of the largest absolute values,
    rounded to whole numbers kernel by kernel.

    Raises:
      UserError: for more scalars than the parameters have, or fewer than their biases and norms.
    """
    leaves = jax.tree.leaves(params)
    kernels = sum(weights.size for weights in leaves if is_kernel(weights))
    others = sum(weights.size for weights in leaves) - kernels
    check_whole_number("kept", kept, others, others + kernels)
    share = (kept - others) / kernels

    def mask(weights: jax.Array) -> jax.Array:
        if not is_kernel(weights):
            return jnp.ones(jnp.shape(weights), bool)
        order = jnp.argsort(-jnp.abs(weights).ravel(), stable=True)
        remaining = order[: round(share * weights.size)]
        return jnp.zeros(weights.size, bool).at[remaining].set(True).reshape(weights.shape)

    return jax.tree.map(mask, params)


def prune(params: Any, kept: int) -> Any:
    """Return the parameters with 0 where `masks` says so; arguments and errors are its."""
    return jax.tree.map(lambda w, mask: jnp.where(mask, w, 0), params, masks(params, kept))
