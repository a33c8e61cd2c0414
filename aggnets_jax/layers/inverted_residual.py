"""The inverted residual branch: wide within, narrow at both ends.

Paper: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, arXiv
1801.04381.
"""

from collections.abc import Callable

import jax
from flax import linen as nn

from aggnets_jax.layers.common import Conv, Norm


class InvertedResidual(nn.Module):
    """F: 1x1(expansion * input)-BN-act, depthwise 3x3-BN-act, 1x1(features)-BN.

    Attributes:
      features: channels of the output.
      expansion: inner width over the width of the input; with 1 there is no first 1x1.
      stride: stride of the depthwise convolution.
      activation: act.
      norm: makes batch normalisations.
      conv: makes convolutions.
    """

    features: int
    expansion: int
    stride: int
    activation: Callable[[jax.Array], jax.Array]
    norm: Norm
    conv: Conv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same divided by the stride, `features` wide."""
        width = self.expansion * x.shape[-1]
        if self.expansion > 1:
            x = self.conv(width, 1, name="expand_conv")(x)
            x = self.activation(self.norm(name="expand_norm")(x))
        x = self.conv(width, 3, stride=self.stride, groups=width, name="depthwise_conv")(x)
        x = self.activation(self.norm(name="depthwise_norm")(x))
        return self.norm(name="project_norm")(self.conv(self.features, 1, name="project_conv")(x))
