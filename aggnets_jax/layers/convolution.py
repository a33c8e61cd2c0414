"""The convolution of all networks: XLA's own, in a form that is fast on the backend.

On GPU and TPU this is `lax.conv_general_dilated`. On the CPU XLA takes tens of times as long as
need be for grouped convolutions with their gradients, and for any gradient within a loop
(results/convolution.csv). The same function is written there with what it does fast:

* A 1x1 convolution is a product of matrices.
* The gradients of a convolution are convolutions whose operands are transposed first. JAX's own
  name other dimensions instead, for which XLA has no fast code within a loop.
* Groups are convolved side by side, narrow ones several at a time with a block-diagonal kernel.
* A depthwise convolution is a sum of shifted products.

Results differ by the rounding of sums in another order. `jax.vmap` over images and kernels (several
seeds) is a loop.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import PartitionSpec

from aggnets_jax.runtime.compilation import barrier_on_cpu

# Channels that a convolution of one group should have to be fast, and how many convolutions a
# grouped one may become: more are slow to compile.
_WIDE = 32
_MOST_PARTS = 8

# Features of a convolution fill whole vectors; and channels for each feature from which on the
# kernel's gradient is faster as a product of matrices.
_VECTOR = 16
_MUCH_WIDER = 8

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
        in_xla = partial(
            lax.conv_general_dilated,
            window_strides=strides,
            padding=pads,
            rhs_dilation=dilations,
            dimension_numbers=numbers,
            feature_group_count=groups,
            precision=precision,
        )
        return (in_xla if groups == 1 else _on_each_device(in_xla, lhs.shape[0]))(lhs, rhs)
    # XLA would compute what precedes the convolution again for the gradient of the kernel, in the
    # order of its transposed images, which takes several times as long as to read them.
    lhs = barrier_on_cpu(lhs)
    window = _Window(strides, pads, (1, 1), dilations, precision)
    if groups == 1:
        return _one_group(lhs, rhs, window)
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
    outputs = [_one_group(x, _block_diagonal(kernel, merged), window) for x, kernel in parts]
    return jnp.concatenate(outputs, axis=-1)


def _on_each_device(
    function: Callable[[jax.Array, jax.Array], jax.Array], batch_size: int
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The function of images and kernel, of each device's part of the images.

    That is what XLA's partitioner makes of a batch that is divided, but for the gradients of
    grouped convolutions: for these it gathers all images on each device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not mesh.are_all_axes_auto or batch_size % mesh.size:
        return function
    batch, everywhere = PartitionSpec(mesh.axis_names), PartitionSpec()
    return jax.shard_map(function, in_specs=(batch, everywhere), out_specs=batch)


class _Window(NamedTuple):
    """The arguments of `lax.conv_general_dilated`, apart from arrays, layouts and groups."""

    strides: _Pair
    pads: _Pads
    lhs_dilation: _Pair
    rhs_dilation: _Pair
    precision: lax.PrecisionLike


def _one_group(x: jax.Array, kernel: jax.Array, window: _Window) -> jax.Array:
    if kernel.shape[:2] == (1, 1) and window.pads == ((0, 0), (0, 0)):
        x = x[:, :: window.strides[0], :: window.strides[1]]
        # Of two dimensions: XLA is slow to contract three for the kernel's gradient.
        rows = x.reshape(-1, x.shape[-1])
        outputs = jnp.matmul(rows, kernel[0, 0], precision=window.precision)
        return outputs.reshape(*x.shape[:-1], kernel.shape[-1])
    return _dense(x, kernel, window)


def _dense(x: jax.Array, kernel: jax.Array, window: _Window) -> jax.Array:
    """XLA's convolution of images [batch, height, width, channels] in one group."""
    return _dense_p.bind(x, kernel, window=window)


def _in_xla(x: jax.Array, kernel: jax.Array, *, window: _Window) -> jax.Array:
    *slides, precision = window
    return lax.conv_general_dilated(x, kernel, *slides, _NHWC, precision=precision)


def _output_type(x: ShapedArray, kernel: ShapedArray, *, window: _Window) -> ShapedArray:
    output = jax.eval_shape(partial(_in_xla, window=window), x, kernel)
    return ShapedArray(output.shape, output.dtype)


def _x_gradient(
    gradient: jax.Array, x: ad.UndefinedPrimal, kernel: jax.Array, *, window: _Window
) -> jax.Array:
    """That of the images: a convolution, as is that of the kernel.

    For every dimension, with stride s, dilations a of the image and b of the kernel, and padding p,
    an output y at u sums x at v times the kernel at i over all s u + b i = a v + p. The equation is
    the same if y and x change places, or y and the kernel.
    """
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    lows = [
        (size - 1) * dilation - low
        for size, dilation, (low, _) in zip(
            kernel.shape, window.rhs_dilation, window.pads, strict=False
        )
    ]
    back = window._replace(strides=window.lhs_dilation, lhs_dilation=window.strides)
    reaching = _reaching(x.aval.shape[1:3], gradient, flipped, back, lows)
    return _dense(gradient, flipped, reaching)


def _one_by_one(
    operands: Sequence[jax.Array], axes: Sequence[int | None], *, window: _Window
) -> tuple[jax.Array, int]:
    """A loop over what `jax.vmap` maps: at once, kernels would be groups."""
    mapped = [
        jnp.moveaxis(x, axis, 0) for x, axis in zip(operands, axes, strict=True) if axis is not None
    ]

    def one(each: Sequence[jax.Array]) -> jax.Array:
        rest = iter(each)
        pair = [x if axis is None else next(rest) for x, axis in zip(operands, axes, strict=True)]
        return _dense(*pair, window)

    return lax.map(one, mapped), 0


def _reaching(
    sizes: Sequence[int], x: jax.Array, kernel: jax.Array, window: _Window, lows: Sequence[int]
) -> _Window:
    """The window with the paddings that begin with `lows` and make outputs of the given sizes."""
    pads = []
    for i, (size, low) in enumerate(zip(sizes, lows, strict=True)):
        covered = (size - 1) * window.strides[i] + (kernel.shape[i] - 1) * window.rhs_dilation[i]
        pads.append((low, covered - (x.shape[1 + i] - 1) * window.lhs_dilation[i] - low))
    return window._replace(pads=tuple(pads))


def _kernel_gradient(
    gradient: jax.Array, x: jax.Array, kernel: ad.UndefinedPrimal, *, window: _Window
) -> jax.Array:
    sizes, channels, features = kernel.aval.shape[:2], x.shape[-1], gradient.shape[-1]
    slides = {*window.strides, *window.lhs_dilation, *window.rhs_dilation}
    if slides == {1} and channels >= _MUCH_WIDER * features:
        # Of all pairs of a channel and a shift of the gradient at once.
        shifted = _shifts(gradient, window.pads, sizes)
        product = jnp.matmul(
            x.reshape(-1, channels).T,
            shifted.reshape(-1, shifted.shape[-1]),
            precision=window.precision,
        )
        return product.reshape(channels, *sizes, features).transpose(1, 2, 0, 3)

    images = x.transpose(3, 1, 2, 0)
    kernels = gradient.transpose(1, 2, 0, 3)
    kernels = jnp.pad(kernels, ((0, 0), (0, 0), (0, 0), (0, -features % _VECTOR)))
    lows = [low for low, _ in window.pads]
    across = window._replace(strides=window.rhs_dilation, rhs_dilation=window.strides)
    product = _dense(images, kernels, _reaching(sizes, images, kernels, across, lows))
    return product[..., :features].transpose(1, 2, 0, 3)


# A primitive, so that it has derivatives of any order and mode.
_dense_p = Primitive("dense_convolution")
_dense_p.def_impl(_in_xla)
_dense_p.def_abstract_eval(_output_type)
mlir.register_lowering(_dense_p, mlir.lower_fun(_in_xla, multiple_results=False))
ad.defbilinear(_dense_p, _x_gradient, _kernel_gradient)
batching.primitive_batchers[_dense_p] = _one_by_one


def _shifts(gradient: jax.Array, pads: _Pads, sizes: tuple[int, int]) -> jax.Array:
    """The gradient's values that each position of the kernel meets at a position of the image.

    Args:
      gradient: [batch, output height, output width, features].
      pads: of the convolution, whose strides and dilations are 1.
      sizes: of the kernel.

    Returns:
      [batch, height, width, kernel height * kernel width * features].
    """
    (rows, columns), ((top, bottom), (left, right)) = sizes, pads
    zero = jnp.zeros((), gradient.dtype)
    around = (columns - 1 - left, columns - 1 - right, 0)
    padded = lax.pad(gradient, zero, ((0, 0, 0), (0, 0, 0), around, (0, 0, 0)))
    width = padded.shape[2] - columns + 1
    beside = jnp.concatenate(
        [padded[:, :, columns - 1 - j :][:, :, :width] for j in range(columns)], axis=-1
    )
    # Beside these the other rows', each in its place in a sum: unlike a concatenation of that many
    # features, XLA makes one loop of it.
    features = beside.shape[-1]
    return sum(
        lax.pad(
            beside,
            zero,
            (
                (0, 0, 0),
                (i - top, rows - 1 - i - bottom, 0),
                (0, 0, 0),
                (i * features, (rows - 1 - i) * features, 0),
            ),
        )
        for i in range(rows)
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
