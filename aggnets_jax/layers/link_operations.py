"""Links that carry operations: the aggregation of the cells of architecture search.

    y_l = sum over the links (l, s) of op(y_s),    output of the cell: concat of some y_s

`OPERATIONS` has the operations by name. An operation brings a state of another width to the cell's
width; at stride 2 it halves the resolution. Padding is TensorFlow's "SAME", and average poolings
leave the padding out. ReLU precedes each convolution, and BN follows it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from aggnets_jax.connectivity.patterns import Link
from aggnets_jax.layers.common import Conv, Norm
from aggnets_jax.layers.pooling import avg_pool, max_pool, strided


class Carried(NamedTuple):
    """An operation of a link, and its number in the cell, which names its module."""

    number: int
    operation: str


def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the padding "SAME" of TensorFlow before and after."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class Cells(NamedTuple):
    """Everything that operations are made with: width, makers of norms and convolutions."""

    features: int
    norm: Norm
    conv: Conv
    factorised_identity: bool = False


def convolution(
    cells: Cells,
    x: jax.Array,
    features: int,
    kernel: tuple[int, int] = (1, 1),
    stride: tuple[int, int] = (1, 1),
    *,
    dilation: int = 1,
    groups: int = 1,
    name: str,
) -> jax.Array:
    """Convolve with TensorFlow's padding."""
    reach = [(k - 1) * dilation + 1 for k in kernel]
    padding = tuple(_same(n, k, s) for n, k, s in zip(x.shape[1:3], reach, stride, strict=True))
    return cells.conv(
        features,
        kernel,
        stride=stride,
        groups=groups,
        dilation=dilation,
        padding=padding,
        name=name,
    )(x)


class ReluConvNorm(nn.Module):
    """ReLU, a convolution to the cell's width (1x1 by default), BN."""

    cells: Cells
    stride: int = 1
    features: int | None = None
    kernel: tuple[int, int] = (1, 1)
    relu: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same divided by the stride, `features` wide."""
        features = self.features or self.cells.features
        # Kernels in a row or a column stride in their direction only.
        both = self.kernel[0] == self.kernel[1]
        stride = tuple(self.stride if both or k > 1 else 1 for k in self.kernel)
        x = nn.relu(x) if self.relu else x
        x = convolution(self.cells, x, features, self.kernel, stride, name="conv")
        return self.cells.norm(name="norm")(x)


class FactorisedReduction(nn.Module):
    """[ReLU,] 1x1 on every other position beside 1x1 on the positions between, BN."""

    cells: Cells
    relu: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> [batch, height / 2, width / 2, features]."""
        features, conv = self.cells.features, self.cells.conv
        x = nn.relu(x) if self.relu else x
        shifted = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))[:, 1:, 1:]
        every, between = (strided(part, (2, 2)) for part in (x, shifted))
        halves = [
            conv(features // 2, 1, name="conv1")(every),
            conv(features - features // 2, 1, name="conv2")(between),
        ]
        return self.cells.norm(name="norm")(jnp.concatenate(halves, axis=-1))


class Separable(nn.Module):
    """Twice ReLU, depthwise convolution (the first with the stride), 1x1, BN."""

    cells: Cells
    stride: int
    size: int
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same divided by the stride, `features` wide."""
        kernel, features = (self.size, self.size), self.cells.features
        for i, stride in enumerate((self.stride, 1), start=1):
            x = convolution(
                self.cells,
                nn.relu(x),
                x.shape[-1],
                kernel,
                (stride, stride),
                dilation=self.dilation,
                groups=x.shape[-1],
                name=f"depthwise{i}",
            )
            x = self.cells.conv(features, 1, name=f"pointwise{i}")(x)
            x = self.cells.norm(name=f"norm{i}")(x)
        return x


class Bottlenecked(nn.Module):
    """ReLU-1x1(features / 4)-BN, ReLU-kernel-BN for each kernel, ReLU-1x1(features)-BN."""

    cells: Cells
    stride: int
    kernels: Sequence[tuple[int, int]]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same divided by the stride, `features` wide."""
        narrow = self.cells.features // 4
        x = ReluConvNorm(self.cells, 1, narrow, name="before")(x)
        for i, kernel in enumerate(self.kernels, start=1):
            x = ReluConvNorm(self.cells, self.stride, narrow, kernel, name=f"within{i}")(x)
        return ReluConvNorm(self.cells, name="behind")(x)


class Pool(nn.Module):
    """A pooling, followed by 1x1-BN if the width changes."""

    cells: Cells
    stride: int
    size: int
    average: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same divided by the stride, `features` wide."""
        window, stride = (self.size, self.size), (self.stride, self.stride)
        if self.average:
            pooled = avg_pool(x, window, stride, "SAME", count_include_pad=False)
            x = pooled.astype(x.dtype)  # its counts are float32
        else:
            x = max_pool(x, window, stride, "SAME")
        if x.shape[-1] == self.cells.features:
            return x
        return ReluConvNorm(self.cells, relu=False, name="projection")(x)


class Identity(nn.Module):
    """The state itself; ReLU-1x1-BN, or a factorised reduction, where the shape changes."""

    cells: Cells
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same divided by the stride, `features` wide."""
        if self.stride == 1 and x.shape[-1] == self.cells.features:
            return x
        if self.stride == 2 and self.cells.factorised_identity:
            return FactorisedReduction(self.cells, relu=False, name="reduction")(x)
        return ReluConvNorm(self.cells, self.stride, name="convolved")(x)


OPERATIONS: Mapping[str, Callable[..., nn.Module]] = {
    "id": Identity,
    "c1": ReluConvNorm,
    "c3": lambda cells, stride, name: Bottlenecked(cells, stride, ((3, 3),), name=name),
    "c17": lambda cells, stride, name: Bottlenecked(cells, stride, ((1, 7), (7, 1)), name=name),
    "sep3": lambda cells, stride, name: Separable(cells, stride, 3, name=name),
    "sep5": lambda cells, stride, name: Separable(cells, stride, 5, name=name),
    "sep7": lambda cells, stride, name: Separable(cells, stride, 7, name=name),
    "dil5": lambda cells, stride, name: Separable(cells, stride, 5, 2, name=name),
    "avg3": lambda cells, stride, name: Pool(cells, stride, 3, average=True, name=name),
    "max3": lambda cells, stride, name: Pool(cells, stride, 3, name=name),
    "max2": lambda cells, stride, name: Pool(cells, stride, 2, name=name),
}
"""`OPERATIONS[name](cells, stride, name=...)` makes an operation."""


class LinkOperations:
    """The sum (or mean) of the operations of a layer's links; a concatenation for the output.

    An operation of a link with a weight is multiplied by it, and so are concatenated channels.
    """

    def __init__(
        self,
        cells: Cells,
        carried: Mapping[Link, Sequence[Carried]],
        *,
        depth: int,
        reduces: bool,
        mean: bool = False,
        drop: Callable[..., Callable[[jax.Array], jax.Array]] | None = None,
    ) -> None:
        """Take the operations of the links, and how to make them.

        Args:
          cells: how operations are made.
          carried: operations of each link into the layers 2, 3, ...
          depth: number of the last layer; the output has the next.
          reduces: whether operations on the inputs 0 and 1 have stride 2.
          mean: whether to divide a sum by the number of operations.
          drop: `drop(name=...)` makes the module that drops an operation's result.
        """
        self.cells, self.carried, self.depth = cells, carried, depth
        self.reduces, self.mean, self.drop = reduces, mean, drop

    def __call__(
        self, outputs: Any, sources: Sequence[int], layer: int, weights: jax.Array | None = None
    ) -> jax.Array:
        """Return [batch, height, width, features], or the concatenation for the output."""
        weights = [None] * len(sources) if weights is None else weights
        read = [
            x if weight is None else weight.astype(x.dtype) * x
            for source, weight in zip(sources, weights, strict=True)
            for x in self._read(outputs[source], source, layer)
        ]
        if layer > self.depth:
            return jnp.concatenate(read, axis=-1)
        return sum(read) / len(read) if self.mean else sum(read)

    def _read(self, x: jax.Array, source: int, layer: int) -> list[jax.Array]:
        stride = 2 if self.reduces and source < 2 else 1
        if layer > self.depth:
            return [self._fitted(x, source, stride)]
        results = []
        for number, operation in self.carried[layer, source]:
            result = OPERATIONS[operation](self.cells, stride, name=f"op{number}")(x)
            if self.drop is not None and operation != "id":
                result = self.drop(name=f"drop{number}")(result)
            results.append(result)
        return results

    def _fitted(self, x: jax.Array, source: int, stride: int) -> jax.Array:
        """Return a state in the width and the resolution of the output."""
        if stride == 2:
            return FactorisedReduction(self.cells, relu=False, name=f"fitted{source}")(x)
        if x.shape[-1] != self.cells.features:
            return ReluConvNorm(self.cells, relu=False, name=f"fitted{source}")(x)
        return x
