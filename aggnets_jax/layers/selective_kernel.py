r"""Selective kernels: convolutions of several sizes with learnt shares in each channel.

Paper: Li et al., "Selective Kernel Networks", CVPR 2019, arXiv 1903.06586 (eq. 1 to 6).

    y = sum_k a_k U_k,   U_k = ReLU(BN(conv_k(x))),   a = softmax over k of FC(ReLU(BN(FC(mean U))))

           .-- 3x3 -------------- U_1 --.--------- * ---.
    x -----+                            (+)- mean -- a  (+)-- y
           '-- 3x3, dilation 2 -- U_2 --'--------- * ---'

The branches may be any convolutions of x.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from aggnets_jax.layers.common import Conv, Norm


class SelectiveKernel(nn.Module):
    """A convolution of `features` channels with a selected kernel.

    Attributes:
      features: channels of the output.
      branches: `branch(features, name=...)` make the convolutions of the branches.
      reduction: by how much the hidden layer of the weights is narrower than the output.
      norm: makes batch normalisations.
      conv: makes convolutions.
      least: least width of the hidden layer.
    """

    features: int
    branches: Sequence[Callable[..., nn.Module]]
    reduction: int
    norm: Norm
    conv: Conv
    least: int = 32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> [batch, rows, columns, features]."""
        outputs = []
        for k, branch in enumerate(self.branches, start=1):
            y = branch(self.features, name=f"branch{k}_conv")(x)
            outputs.append(nn.relu(self.norm(name=f"branch{k}_norm")(y)))
        pooled = jnp.mean(sum(outputs), axis=(1, 2), keepdims=True)
        hidden = max(self.features // self.reduction, self.least)
        z = nn.relu(self.norm(name="hidden_norm")(self.conv(hidden, 1, name="hidden")(pooled)))
        scores = self.conv(len(outputs) * self.features, 1, name="scores")(z)
        scores = scores.reshape(*scores.shape[:-1], len(outputs), self.features)
        wide = jnp.promote_types(scores.dtype, jnp.float32)
        weights = nn.softmax(scores.astype(wide), axis=-2).astype(x.dtype)
        return sum(weights[..., k, :] * y for k, y in enumerate(outputs))
