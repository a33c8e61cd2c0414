"""What the devices can do at best: measured by a matrix product and a copy, and as published."""

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

_REPEATS = 5


class Published(NamedTuple):
    """What the maker of a device prints, without sparsity.

    Attributes:
      bfloat16: FLOP/s.
      float32: FLOP/s of products in the precision that is XLA's default, TF32 on these.
    """

    bfloat16: float
    float32: float


# By the beginning of `device_kind`. NVIDIA's data sheets: "NVIDIA H100 Tensor Core GPU" (SXM),
# "NVIDIA H200 Tensor Core GPU" (SXM), "NVIDIA A100 Tensor Core GPU"; TF32 and BFLOAT16 are half of
# what is printed with sparsity.
PUBLISHED = {
    "NVIDIA H100 80GB": Published(989.4e12, 494.7e12),
    "NVIDIA H200": Published(989.4e12, 494.7e12),
    "NVIDIA A100": Published(312e12, 156e12),
}


def published(dtype: str) -> float | None:
    """FLOP/s that the maker of a device prints for products in a dtype, if known."""
    kind = jax.devices()[0].device_kind
    found = (peak for name, peak in PUBLISHED.items() if kind.startswith(name))
    peak = next(found, None)
    return peak and getattr(peak, dtype)


@functools.cache
def matmul_flops(dtype: str, size: int | None = None) -> float:
    """FLOP/s of a square matrix product on one device, the best of a few.

    Args:
      dtype: of both factors.
      size: of each side; default one that keeps the device busy.
    """
    size = size or (2048 if jax.default_backend() == "cpu" else 8192)
    x = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(dtype))
    return 2 * size**3 / _best(jax.jit(jnp.matmul), x, x)


@functools.cache
def copy_bytes(size: int | None = None) -> float:
    """Bytes/s read and written by a copy on one device, the best of a few.

    Args:
      size: bytes to copy; default more than any cache holds.
    """
    size = size or (1 << 28 if jax.default_backend() == "cpu" else 1 << 30)
    x = jnp.zeros(size // 4, jnp.float32)
    # An addition, because a mere copy could be an alias.
    return 2 * x.nbytes / _best(jax.jit(lambda x: x + 1), x)


def _best(function: Callable[..., jax.Array], *arguments: jax.Array) -> float:
    """Seconds of a call."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - began)
    return min(times)
