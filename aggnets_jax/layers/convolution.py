"""The convolution of all networks, in a form that is fast on the backend.

On GPU and TPU this is XLA's `lax.conv_general_dilated`. On a CPU, XLA is tens of times slower than
necessary for the gradients of grouped convolutions, and for any gradient inside a loop
(results/convolution.csv). There, operations that XLA computes fast give the same function:

* A 1x1 convolution is a product of matrices.
* The gradients of a convolution are convolutions with transposed operands. JAX's own gradients
  permute the dimension numbers instead, for which XLA has no fast code inside a loop.
* Very wide convolutions are sums of products of matrices, one for each position of the kernel.
* Groups are convolved side by side; narrow groups are merged with a block-diagonal kernel.
* A depthwise convolution is a sum of shifted products.

Results differ by rounding, because sums are in another order. `jax.vmap` over images and kernels
(several seeds) becomes a loop.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import PartitionSpec

from aggnets_jax.layers.dilation import Sampling, sampling_of
from aggnets_jax.runtime.compilation import backend, barrier_on_cpu

# A convolution is fast from this many channels on; groups are merged until they have them.
_WIDE = 32
# Convolutions that a grouped one may become; more are slow to compile.
_MOST_PARTS = 8
# Features are padded to a multiple of the vector length.
_VECTOR = 16
# From this many channels per feature on, the kernel's gradient is faster as a product of matrices.
_MUCH_WIDER = 8
# With so many channels and features, a convolution, or the gradient of its kernel, is faster as
# products of matrices, one for each position of the kernel.
_VERY_WIDE, _VERY_WIDE_GRADIENT = 384, 128

_NHWC = ("NHWC", "HWIO", "NHWC")
_Pair = tuple[int, int]
_Pads = tuple[_Pair, _Pair]

# A user context is part of jit's cache key: functions are traced again when its value changes.
_native = jax.make_user_context(False)


@contextmanager
def native() -> Iterator[None]:
    """Use `lax.conv_general_dilated` on every backend in functions traced within this context.

    For comparisons with the plain form of a network. A jitted function is traced and compiled once
    for calls inside and once for calls outside.
    """
    with _native(True):
        yield


def convolve(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: lax.ConvDimensionNumbers | None = None,
    feature_group_count: int = 1,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Convolve images like `lax.conv_general_dilated`; pass it as `nn.Conv.conv_general_dilated`.

    It maps images [batch, height, width, channels], with a kernel [kernel height, kernel width,
    channels / groups, features], to [batch, output height, output width, features]. The padding is
    (low, high) of height and width, or "SAME", TensorFlow's.
    """
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, _NHWC)
    asked = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers or _NHWC)
    assert asked == numbers, f"images are NHWC and kernels HWIO here, got {asked}"
    assert lhs_dilation is None or set(lhs_dilation) == {1}, "inputs are not dilated here"
    strides, dilations = tuple(window_strides), tuple(rhs_dilation or (1, 1))
    if isinstance(padding, str):
        window = [(n - 1) * d + 1 for n, d in zip(rhs.shape, dilations, strict=False)]
        padding = lax.padtype_to_pads(lhs.shape[1:3], window, strides, padding)
    pads, groups = tuple(map(tuple, padding)), feature_group_count
    given = Sampling(strides, pads, dilations)
    strides, pads, dilations = sampling_of(lhs.shape[1], rhs.shape[:2], given)
    if _native.value or backend() != "cpu":
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
    # Without the barrier XLA recomputes the images for the gradient of the kernel, in transposed
    # order, which takes several times as long as reading them.
    lhs = barrier_on_cpu(lhs)
    window = _Window(strides, pads, (1, 1), dilations, precision)
    if groups == 1:
        return _one_group(lhs, rhs, window)
    if rhs.shape[2] == 1:
        return _depthwise(lhs, rhs, window)

    # Merge the least number of groups that makes a convolution wide.
    channels = rhs.shape[2]
    least = min(groups, max(-(-_WIDE // channels), -(-groups // _MOST_PARTS)))
    merged = next(n for n in range(least, groups + 1) if groups % n == 0)
    parts = zip(*(jnp.split(y, groups // merged, axis=-1) for y in (lhs, rhs)), strict=True)
    outputs = [_one_group(x, _block_diagonal(kernel, merged), window) for x, kernel in parts]
    return jnp.concatenate(outputs, axis=-1)


def _on_each_device(
    function: Callable[[jax.Array, jax.Array], jax.Array], batch_size: int
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Map a function of images and kernel over the devices between which the batch is divided.

    XLA's partitioner does the same by itself, except for the gradients of grouped convolutions, for
    which it gathers all images on each device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not mesh.are_all_axes_auto or batch_size % mesh.size:
        return function
    batch, everywhere = PartitionSpec(mesh.axis_names), PartitionSpec()
    return jax.shard_map(function, in_specs=(batch, everywhere), out_specs=batch)


class _Window(NamedTuple):
    """Arguments of `lax.conv_general_dilated` without arrays, layouts and groups."""

    strides: _Pair
    pads: _Pads
    lhs_dilation: _Pair
    rhs_dilation: _Pair
    precision: lax.PrecisionLike


def _one_group(x: jax.Array, kernel: jax.Array, window: _Window) -> jax.Array:
    if kernel.shape[:2] == (1, 1) and window.pads == ((0, 0), (0, 0)):
        x = x[:, :: window.strides[0], :: window.strides[1]]
        outputs = jnp.matmul(_rows(x), kernel[0, 0], precision=window.precision)
        return outputs.reshape(*x.shape[:-1], kernel.shape[-1])
    return _dense_p.bind(x, kernel, window=window)


def _in_xla(x: jax.Array, kernel: jax.Array, *, window: _Window) -> jax.Array:
    *slides, precision = window
    return lax.conv_general_dilated(x, kernel, *slides, _NHWC, precision=precision)  # type: ignore[call-arg]


def _on_cpu(x: jax.Array, kernel: jax.Array, *, window: _Window) -> jax.Array:
    # The sum over positions rounds at each of them, which would show in bfloat16.
    summable = window.lhs_dilation == (1, 1) and x.dtype.itemsize >= 4
    if not summable or min(kernel.shape[2:]) < _VERY_WIDE:
        return _in_xla(x, kernel, window=window)
    kernels = kernel.reshape(-1, *kernel.shape[2:])
    parts = [*_positions(x, kernel.shape[:2], window)]
    product = partial(jnp.matmul, precision=window.precision)
    outputs = sum(product(_rows(part), each) for part, each in zip(parts, kernels, strict=True))
    return outputs.reshape(*parts[0].shape[:3], -1)


def _positions(x: jax.Array, kernel_sizes: Sequence[int], window: _Window) -> Iterator[jax.Array]:
    """Yield what each position of a kernel meets, [batch, output height, width, channels]."""
    dilations, strides = window.rhs_dilation, window.strides
    pads = [(*pair, 0) for pair in ((0, 0), *window.pads, (0, 0))]  # below 0 they cut
    x = lax.pad(x, jnp.zeros((), x.dtype), pads)
    spans = [n - (k - 1) * d for n, k, d in zip(x.shape[1:3], kernel_sizes, dilations, strict=True)]
    for position in np.ndindex(*kernel_sizes):
        rows, columns = (
            slice(i * d, i * d + n, s)
            for i, d, n, s in zip(position, dilations, spans, strides, strict=True)
        )
        yield x[:, rows, columns]


def _rows(x: jax.Array) -> jax.Array:
    """Return pixels as rows; XLA is slow to contract more than one dimension."""
    return x.reshape(-1, x.shape[-1])


def _output_type(x: ShapedArray, kernel: ShapedArray, *, window: _Window) -> ShapedArray:
    output = jax.eval_shape(partial(_in_xla, window=window), x, kernel)
    return ShapedArray(output.shape, output.dtype)


def _x_gradient(
    gradient: jax.Array, x: ad.UndefinedPrimal, kernel: jax.Array, *, window: _Window
) -> jax.Array:
    """Return the gradient for the images; like the gradient for the kernel, it is a convolution.

    In each dimension, with stride s, dilations a of the image and b of the kernel, and padding p,
    the output y[u] is the sum of x[v] * kernel[i] over all s u + b i = a v + p. The equation keeps
    its form if y and x, or y and the kernel, change places.
    """
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    lows = [(kernel.shape[i] - 1) * window.rhs_dilation[i] - window.pads[i][0] for i in (0, 1)]
    back = window._replace(strides=window.lhs_dilation, lhs_dilation=window.strides)
    reaching = _reaching(x.aval.shape[1:3], gradient, flipped, back, lows)
    return _dense_p.bind(gradient, flipped, window=reaching)


def _one_by_one(
    operands: Sequence[jax.Array], axes: Sequence[int | None], *, window: _Window
) -> tuple[jax.Array, int]:
    """Compute a `jax.vmap` as a loop; at once, the kernels would become groups."""
    mapped = [
        None if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(operands, axes, strict=True)
    ]

    def one(each: Sequence[jax.Array | None]) -> jax.Array:
        pair = [x if part is None else part for x, part in zip(operands, each, strict=True)]
        return _dense_p.bind(*pair, window=window)

    return lax.map(one, mapped), 0


def _reaching(
    sizes: Sequence[int], x: jax.Array, kernel: jax.Array, window: _Window, lows: Sequence[int]
) -> _Window:
    """Return the window whose paddings start with `lows` and give outputs of these sizes."""
    pads = []
    for i, (size, low) in enumerate(zip(sizes, lows, strict=True)):
        covered = (size - 1) * window.strides[i] + (kernel.shape[i] - 1) * window.rhs_dilation[i]
        pads.append((low, covered - (x.shape[1 + i] - 1) * window.lhs_dilation[i] - low))
    return window._replace(pads=tuple(pads))


def _kernel_gradient(
    gradient: jax.Array, x: jax.Array, kernel: ad.UndefinedPrimal, *, window: _Window
) -> jax.Array:
    """Return the gradient for the kernel."""
    sizes, channels, features = kernel.aval.shape[:2], x.shape[-1], gradient.shape[-1]
    if window.lhs_dilation == (1, 1) and min(channels, features) >= _VERY_WIDE_GRADIENT:
        parts = map(_rows, _positions(x, sizes, window))
        rows, precision = _rows(gradient), window.precision
        products = [jnp.matmul(part.T, rows, precision=precision) for part in parts]
        return jnp.stack(products).reshape(*sizes, channels, features)
    slides = {*window.strides, *window.lhs_dilation, *window.rhs_dilation}
    if slides == {1} and channels >= _MUCH_WIDER * features:
        # All pairs of a channel and a shifted gradient at once.
        shifted = _shifts(gradient, window.pads, sizes)
        product = jnp.matmul(_rows(x).T, _rows(shifted), precision=window.precision)
        return product.reshape(channels, *sizes, features).transpose(1, 2, 0, 3)

    images = x.transpose(3, 1, 2, 0)
    kernels = gradient.transpose(1, 2, 0, 3)
    kernels = jnp.pad(kernels, ((0, 0), (0, 0), (0, 0), (0, -features % _VECTOR)))
    lows = [low for low, _ in window.pads]
    across = window._replace(strides=window.rhs_dilation, rhs_dilation=window.strides)
    reaching = _reaching(sizes, images, kernels, across, lows)
    product = _dense_p.bind(images, kernels, window=reaching)
    return product[..., :features].transpose(1, 2, 0, 3)


# XLA's convolution in one group, with other gradients than JAX's. As a bilinear primitive it has
# derivatives of any order and mode.
_dense_p = Primitive("dense_convolution")
_dense_p.def_impl(_on_cpu)
_dense_p.def_abstract_eval(_output_type)
mlir.register_lowering(_dense_p, mlir.lower_fun(_on_cpu, multiple_results=False))
ad.defbilinear(_dense_p, _x_gradient, _kernel_gradient)
batching.primitive_batchers[_dense_p] = _one_by_one


def _shifts(gradient: jax.Array, pads: _Pads, sizes: tuple[int, int]) -> jax.Array:
    """Return the gradient's values that meet each position of the image, by kernel position.

    Maps [batch, output height, output width, features] to [batch, height, width, kernel height *
    kernel width * features], for a convolution whose strides and dilations are 1.
    """
    (rows, columns), ((top, bottom), (left, right)) = sizes, pads
    zero = jnp.zeros((), gradient.dtype)
    around = (columns - 1 - left, columns - 1 - right, 0)
    padded = lax.pad(gradient, zero, ((0, 0, 0), (0, 0, 0), around, (0, 0, 0)))
    width = padded.shape[2] - columns + 1
    beside = jnp.concatenate(
        [padded[:, :, columns - 1 - j :][:, :, :width] for j in range(columns)], axis=-1
    )
    # The shifts of other rows are placed beside these by padding and adding: XLA makes one loop of
    # it, unlike of a concatenation of so many features.
    features = beside.shape[-1]

    def placed(i: int) -> jax.Array:
        height_pads = (i - top, rows - 1 - i - bottom, 0)
        feature_pads = (i * features, (rows - 1 - i) * features, 0)
        return lax.pad(beside, zero, ((0, 0, 0), height_pads, (0, 0, 0), feature_pads))

    return sum(map(placed, range(rows)))


def _block_diagonal(kernel: jax.Array, groups: int) -> jax.Array:
    """Return the one-group kernel equal to `kernel` [h, w, channels, features] in groups."""
    height, width, channels, features = kernel.shape
    blocks = kernel.reshape(height, width, channels, groups, features // groups)
    diagonal = jnp.einsum("hwigo,ng->hwnigo", blocks, jnp.eye(groups, dtype=kernel.dtype))
    return diagonal.reshape(height, width, groups * channels, features)


def _depthwise(x: jax.Array, kernel: jax.Array, window: _Window) -> jax.Array:
    """Sum shifted images times one weight per feature over the positions of the kernel.

    The sum is in at least float32, as in XLA's convolutions.
    """
    dtype, sum_dtype = x.dtype, jnp.promote_types(x.dtype, jnp.float32)
    x = jnp.repeat(x, kernel.shape[3] // x.shape[3], axis=-1).astype(sum_dtype)
    weights = kernel.astype(sum_dtype).reshape(-1, kernel.shape[3])
    parts = _positions(x, kernel.shape[:2], window)
    return sum(x * each for x, each in zip(parts, weights, strict=True)).astype(dtype)
