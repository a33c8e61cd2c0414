"""Pooling and subsampling of maps, which `dilation.dilated` can keep from losing positions."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from aggnets_jax.errors import UserError
from aggnets_jax.layers.dilation import Pads, Sampling, sampling_of

_Padding = str | Pads


def check_even(x: jax.Array) -> None:
    """Raise `UserError` for a map x [batch, height, width, channels] that can't be halved."""
    if x.shape[1] % 2 or x.shape[2] % 2:
        raise UserError(
            f"a map of {x.shape[1]}x{x.shape[2]} can't be halved; allowed: even heights and widths,"
            " as in all stages for images with sides that are multiples of 32"
        )


def max_pool(
    x: jax.Array,
    window: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: _Padding = "VALID",
) -> jax.Array:
    """Return the maxima of windows of x [batch, height, width, channels], as `nn.max_pool`."""
    given, now = _samplings(x, window, strides, padding)
    if now == given:
        return nn.max_pool(x, window, strides, padding)
    padded = _padded(x, now.pads, -jnp.inf)
    return functools.reduce(jnp.maximum, _windows(padded, window, now.dilations))


def avg_pool(
    x: jax.Array,
    window: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: _Padding = "VALID",
    *,
    count_include_pad: bool = True,
) -> jax.Array:
    """Return the averages of windows of x [batch, height, width, channels], as `nn.avg_pool`.

    Padding that only a dilated window reaches counts nothing.
    """
    given, now = _samplings(x, window, strides, padding)
    if now == given:
        return nn.avg_pool(x, window, strides, padding, count_include_pad)
    ones = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
    rates = [n // d for n, d in zip(now.dilations, given.dilations, strict=True)]
    own = [
        (min(rate * low, now_low), min(rate * high, now_high))
        for rate, (low, high), (now_low, now_high) in zip(rates, given.pads, now.pads, strict=True)
    ]
    ones = _padded(ones, own, 1 if count_include_pad else 0)
    further = [(n - a, m - b) for (n, m), (a, b) in zip(now.pads, own, strict=True)]
    counts = sum(_windows(_padded(ones, further, 0), window, now.dilations))
    return sum(_windows(_padded(x, now.pads, 0), window, now.dilations)) / counts


def subsample(x: jax.Array, stride: int) -> jax.Array:
    """Return every position of x [batch, height, width, channels] whose place `stride` divides."""
    _, now = _samplings(x, (1, 1), (stride, stride), "VALID")
    return strided(x, now.strides)


def strided(x: jax.Array, strides: Sequence[int]) -> jax.Array:
    """Return x[:, ::n, ::m] of x [batch, height, width, channels] for strides (n, m).

    Brackets would be a gather where the batch is symbolic, as in exported programs.
    """
    return lax.slice(x, (0, 0, 0, 0), x.shape, (1, *strides, 1))


def _samplings(
    x: jax.Array, window: Sequence[int], strides: Sequence[int] | None, padding: _Padding
) -> tuple[Sampling, Sampling]:
    """Return how the window slides as asked for, and as `dilated` wants it."""
    strides = tuple(strides or (1, 1))
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], window, strides, padding)
    given = Sampling(strides, tuple(map(tuple, padding)), (1, 1))
    return given, sampling_of(x.shape[1], window, given)


def _padded(x: jax.Array, pads: Pads, value: float) -> jax.Array:
    return jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=value)


def _windows(x: jax.Array, window: Sequence[int], dilations: Sequence[int]) -> list[jax.Array]:
    """Return x at each place of a window that slides by single positions."""
    height, width = (
        n - (size - 1) * d for n, size, d in zip(x.shape[1:3], window, dilations, strict=True)
    )
    rows, columns = ([i * d for i in range(n)] for n, d in zip(window, dilations, strict=True))
    return [x[:, i : i + height, j : j + width] for i in rows for j in columns]
