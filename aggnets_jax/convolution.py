"""The convolution of all networks: XLA's own, in a form that is fast on the backend.

On GPU and TPU this is `lax.conv_general_dilated`. On the CPU, where XLA takes 10 to 200 times as
long as need be for grouped convolutions with their gradients, and twice as long for 1x1 ones
(results/convolution.csv), the same function is written with what it does fast:

* A 1x1 convolution is a matrix product.
* Groups are convolved side by side, narrow ones several at a time with a block-diagonal kernel.
* A depthwise convolution is a sum of shifted products.

Results differ by the rounding of sums in another order.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jax
import jax.numpy as jnp
from jax import lax

# Channels that a convolution of one group should have to be fast, and how many convolutions a
# grouped one may become: more are slow to compile.
_WIDE = 32
_MOST_PARTS = 8

_NHWC = ("NHWC", "HWIO", "NHWC")
_Pair = tuple[int, int]
_Pads = tuple[_Pair, _Pair]

# JAX knows its value: what it traced with the one is traced again with the other.
_native = jax.make_user_context(False)


@contextmanager
def native() -> Iterator[None]:
    """What is traced inside of this uses `lax.conv_general_dilated` on every backend.

    So networks can be compared with their plain form. A jitted function is traced, and compiled,
    once for its calls inside and once for those outside.
    """
    with _native(True):
        yield


def convolve(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: lax.ConvDimensionNumbers | None = None,
    feature_group_count: int = 1,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """`lax.conv_general_dilated` of images, for `nn.Conv(conv_general_dilated=convolve)`.

    Args:
      lhs: [batch, height, width, channels].
      rhs: [kernel height, kernel width, channels / groups, features].
      window_strides: of both dimensions.
      padding: (low, high) of both dimensions.
      lhs_dilation: 1 of both dimensions.
      rhs_dilation: of both dimensions of the kernel, default 1.
      dimension_numbers: those of the layouts above.
      feature_group_count: groups.
      precision: of the products.

    Returns:
      [batch, height, width, features].
    """
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, _NHWC)
    if dimension_numbers is not None:
        asked = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
        assert asked == numbers, f"images are NHWC and kernels HWIO here, got {asked}"
    assert lhs_dilation is None or set(lhs_dilation) == {1}, "inputs are not dilated here"

    strides, dilations = tuple(window_strides), tuple(rhs_dilation or (1, 1))
    pads = tuple(map(tuple, padding))
    groups = feature_group_count
    if _native.value or jax.default_backend() != "cpu":
        return lax.conv_general_dilated(
            lhs, rhs, strides, pads, (1, 1), dilations, numbers, groups, precision=precision
        )
    if groups == 1:
        return _one_group(lhs, rhs, strides, pads, dilations, precision)
    if rhs.shape[2] == 1:
        return _depthwise(lhs, rhs, strides, pads, dilations)

    # As many groups at a time as make a convolution wide.
    channels = rhs.shape[2]
    least = min(groups, max(-(-_WIDE // channels), -(-groups // _MOST_PARTS)))
    merged = next(n for n in range(least, groups + 1) if groups % n == 0)
    parts = zip(
        jnp.split(lhs, groups // merged, axis=-1),
        jnp.split(rhs, groups // merged, axis=-1),
        strict=True,
    )
    outputs = [
        _one_group(x, _block_diagonal(kernel, merged), strides, pads, dilations, precision)
        for x, kernel in parts
    ]
    return jnp.concatenate(outputs, axis=-1)


def _one_group(
    x: jax.Array,
    kernel: jax.Array,
    strides: _Pair,
    pads: _Pads,
    dilations: _Pair,
    precision: lax.PrecisionLike,
) -> jax.Array:
    if kernel.shape[:2] == (1, 1) and pads == ((0, 0), (0, 0)):
        x = x[:, :: strides[0], :: strides[1]]
        return jnp.einsum("bhwi,io->bhwo", x, kernel[0, 0], precision=precision)
    return lax.conv_general_dilated(
        x, kernel, strides, pads, (1, 1), dilations, _NHWC, precision=precision
    )


def _block_diagonal(kernel: jax.Array, groups: int) -> jax.Array:
    """The kernel of one group that does what `kernel` [h, w, channels, features] does in groups."""
    height, width, channels, features = kernel.shape
    blocks = kernel.reshape(height, width, channels, groups, features // groups)
    diagonal = jnp.einsum("hwigo,ng->hwnigo", blocks, jnp.eye(groups, dtype=kernel.dtype))
    return diagonal.reshape(height, width, groups * channels, features)


def _depthwise(
    x: jax.Array, kernel: jax.Array, strides: _Pair, pads: _Pads, dilations: _Pair
) -> jax.Array:
    """The sum over the kernel's positions of shifted inputs times a weight for each feature.

    Sums are of at least float32, as in XLA's convolutions.
    """
    dtype, sum_dtype = x.dtype, jnp.promote_types(x.dtype, jnp.float32)
    x = jnp.repeat(x, kernel.shape[3] // x.shape[3], axis=-1).astype(sum_dtype)
    kernel = kernel.astype(sum_dtype)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    height, width = (
        (n - (k - 1) * d - 1) // s + 1
        for n, k, d, s in zip(x.shape[1:3], kernel.shape[:2], dilations, strides, strict=True)
    )

    def shifted(i: int, j: int) -> jax.Array:
        top, left = i * dilations[0], j * dilations[1]
        bottom, right = top + height * strides[0], left + width * strides[1]
        return x[:, top : bottom : strides[0], left : right : strides[1]]

    total = sum(
        shifted(i, j) * kernel[i, j, 0]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    )
    return total.astype(dtype)
