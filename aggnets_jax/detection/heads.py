"""Pyramid, RPN and heads: the parts of a detector with weights, except the backbone.

Sources: Lin et al., arXiv 1612.03144, Sections 3 and 4 (pyramid); Ren et al., arXiv 1506.01497,
Section 3 (RPN); He et al., arXiv 1703.06870, Fig. 4 (heads). Maps are [batch, height, width,
channels] in `dtype`; logits and deltas are at least float32.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from aggnets_jax.layers import common

xavier = nn.initializers.xavier_uniform()
"""U(+-sqrt(6 / (in + out)))."""


def _conv(
    features: int,
    kernel_size: int,
    dtype: DTypeLike,
    name: str,
    init: nn.initializers.Initializer = common.he_fan_out,
) -> nn.Conv:
    """Make a convolution with a bias that starts from 0."""
    zeros = nn.initializers.zeros
    return common.conv(
        features, kernel_size, dtype=dtype, kernel_init=init, bias_init=zeros, name=name
    )


def _at_least_float32(dtype: DTypeLike) -> jnp.dtype:
    return jnp.promote_types(dtype, jnp.float32)


class FeaturePyramid(nn.Module):
    """Top-down pathway with lateral connections: no normalisation, no activation.

    Attributes:
      features: channels of each level.
      dtype: dtype of the computation.
    """

    features: int = 256
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, levels: Sequence[jax.Array]) -> list[jax.Array]:
        """Return a map for each level, and one more: every second cell of the last map.

        Each level [batch, height, width, channels] must have half the sides of the one before,
        rounded up.
        """
        conv = partial(_conv, self.features, dtype=self.dtype, init=xavier)
        sums = [conv(1, name=f"lateral{i}")(x) for i, x in enumerate(levels, 1)]
        for i in reversed(range(len(sums) - 1)):
            height, width = sums[i].shape[1:3]
            upper = jnp.repeat(jnp.repeat(sums[i + 1], 2, axis=1), 2, axis=2)
            sums[i] += upper[:, :height, :width]
        maps = [conv(3, name=f"output{i}")(x) for i, x in enumerate(sums, 1)]
        return [*maps, maps[-1][:, ::2, ::2]]


class RPNHead(nn.Module):
    """The region proposal network, shared by all levels.

    Attributes:
      anchors: number of anchors at each position.
      features: channels of the 3x3 convolution.
      dtype: dtype of the convolution.
    """

    anchors: int = 3
    features: int = 256
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Make the convolutions."""
        init, dtype = nn.initializers.normal(0.01), _at_least_float32(self.dtype)
        self.conv = _conv(self.features, 3, self.dtype, None, init)
        self.logits = _conv(self.anchors, 1, dtype, None, init)
        self.deltas = _conv(4 * self.anchors, 1, dtype, None, init)

    def __call__(self, maps: Sequence[jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
        """Return each level's logits [batch, anchors] and deltas [batch, anchors, 4].

        The order within a level is row, column, anchor.
        """
        hidden = [nn.relu(self.conv(x)) for x in maps]
        logits = [self.logits(x).reshape(len(x), -1) for x in hidden]
        deltas = [self.deltas(x).reshape(len(x), -1, 4) for x in hidden]
        return logits, deltas


class BoxHead(nn.Module):
    """Two linear layers with ReLU; scores and deltas for each class.

    Attributes:
      scores: number of scores, the classes and the background.
      outputs: number of classes with deltas.
      features: width of the linear layers.
      dtype: dtype of these.
    """

    scores: int
    outputs: int
    features: int = 1024
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, rois: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[rois, 7, 7, channels] -> logits [rois, scores] and deltas [rois, outputs, 4]."""
        # Channels come first, as in PyTorch, so that its weights need no permutation.
        x = rois.transpose(0, 3, 1, 2).reshape(len(rois), -1)
        for name in ("fc1", "fc2"):
            dense = nn.Dense(self.features, dtype=self.dtype, kernel_init=xavier, name=name)
            x = nn.relu(dense(x))
        last = partial(nn.Dense, dtype=_at_least_float32(self.dtype))
        normal = nn.initializers.normal
        logits = last(self.scores, kernel_init=normal(0.01), name="scores")(x)
        deltas = last(4 * self.outputs, kernel_init=normal(0.001), name="deltas")(x)
        return logits, deltas.reshape(len(rois), self.outputs, 4)


class Upsample(nn.Module):
    """A transposed 2x2 convolution at stride 2 with a bias: each cell becomes 2x2 cells.

    The kernel is [2, 2, in, features].

    Attributes:
      features: channels of the output.
      dtype: dtype of the computation.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> [batch, 2 height, 2 width, features]."""
        batch, height, width, channels = x.shape
        shape = (2, 2, channels, self.features)
        # PyTorch's fan_out of a transposed convolution counts the first axis of its kernel, `in`.
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal", in_axis=-1, out_axis=-2)
        kernel = self.param("kernel", init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = (jnp.asarray(each, self.dtype) for each in (x, kernel, bias))
        x = jnp.einsum("nhwc,abcd->nhawbd", x, kernel)
        return x.reshape(batch, 2 * height, 2 * width, self.features) + bias


class MaskHead(nn.Module):
    """3x3 convolutions and a transposed one, each with ReLU; a mask for each class.

    Attributes:
      outputs: number of classes with masks.
      features: channels of the convolutions.
      depth: number of 3x3 convolutions.
      dtype: dtype of these.
    """

    outputs: int
    features: int = 256
    depth: int = 4
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, rois: jax.Array) -> jax.Array:
        """[rois, side, side, channels] -> logits [rois, outputs, 2 side, 2 side]."""
        x = rois
        for i in range(1, self.depth + 1):
            x = nn.relu(_conv(self.features, 3, self.dtype, f"conv{i}")(x))
        x = nn.relu(Upsample(self.features, self.dtype, name="upsample")(x))
        masks = _conv(self.outputs, 1, _at_least_float32(self.dtype), "masks")(x)
        return masks.transpose(0, 3, 1, 2)
