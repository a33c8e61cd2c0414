"""Peak rates of a device: measured by a matrix product and a copy, and published ones."""

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

_REPEATS = 5

# Peak FLOP/s as the maker prints them, by the beginning of `device_kind`. Products of float32 have
# XLA's default precision, TF32. NVIDIA's data sheets: "NVIDIA H100 Tensor Core GPU" (SXM), "NVIDIA
# H200 Tensor Core GPU" (SXM), "NVIDIA A100 Tensor Core GPU". They print TF32 and BFLOAT16 with
# sparsity; these are the halves.
_PUBLISHED = {
    "NVIDIA H100 80GB": {"bfloat16": 989.4e12, "float32": 494.7e12},
    "NVIDIA H200": {"bfloat16": 989.4e12, "float32": 494.7e12},
    "NVIDIA A100": {"bfloat16": 312e12, "float32": 156e12},
}


def published_flops(dtype: str) -> float | None:
    """Return the published FLOP/s of products in a dtype, or None for an unknown device."""
    kind = jax.devices()[0].device_kind
    return next((p[dtype] for name, p in _PUBLISHED.items() if kind.startswith(name)), None)


@functools.cache
def matmul_flops(dtype: str, size: int | None = None) -> float:
    """Measure the FLOP/s of a square matrix product on one device, the best of 5 runs.

    Args:
      dtype: dtype of both factors.
      size: length of each side; the default keeps the device busy.
    """
    size = size or (2048 if jax.default_backend() == "cpu" else 8192)
    x = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(dtype))
    return 2 * size**3 / _best_seconds(jax.jit(jnp.matmul), x, x)


@functools.cache
def copy_bytes(size: int | None = None) -> float:
    """Measure the bytes/s that a copy on one device reads and writes, the best of 5 runs.

    Args:
      size: number of bytes to copy; the default exceeds all caches.
    """
    size = size or (1 << 28 if jax.default_backend() == "cpu" else 1 << 30)
    x = jnp.zeros(size // 4, jnp.float32)
    # An addition, because XLA could turn a plain copy into an alias.
    return 2 * x.nbytes / _best_seconds(jax.jit(lambda x: x + 1), x)


def _best_seconds(function: Callable[..., jax.Array], *arguments: jax.Array) -> float:
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - began)
    return min(times)
