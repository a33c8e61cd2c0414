"""MBConv, the inverted residual branch of EfficientNet, with squeeze-excite in the middle.

Paper: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
ICML 2019, arXiv 1905.11946 (Table 1).
"""

from functools import partial

import jax
from flax import linen as nn

from aggnets_jax.layers import common


class SqueezeExcite(nn.Module):
    """Channels scaled by sigmoid(1x1(swish(1x1(mean)))), both convolutions with bias.

    Attributes:
      reduced: channels between the two.
      conv: makes convolutions.
    """

    reduced: int
    conv: common.Conv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same shape."""
        gate = common.global_average(x)[:, None, None]
        conv = partial(self.conv, kernel_size=1, bias_init=nn.initializers.zeros)
        gate = nn.swish(conv(self.reduced, name="reduce")(gate))
        return x * nn.sigmoid(conv(x.shape[-1], name="expand")(gate))


class MBConv(nn.Module):
    """The unit F: 1x1-BN-swish, kxk depthwise-BN-swish, squeeze-excite, 1x1-BN.

    Attributes:
      features: channels of the output.
      expansion: inner width over the width of the input; with 1 there is no first 1x1.
      kernel_size: kernel size of the depthwise convolution.
      stride: stride of the depthwise convolution.
      norm: makes batch normalisations.
      conv: makes convolutions.
    """

    features: int
    expansion: int
    kernel_size: int
    stride: int
    norm: common.Norm
    conv: common.Conv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same divided by the stride, `features` wide."""
        reduced, width = max(1, x.shape[-1] // 4), self.expansion * x.shape[-1]
        if self.expansion > 1:
            x = self.conv(width, 1, name="expand_conv")(x)
            x = nn.swish(self.norm(name="expand_norm")(x))
        x = self.conv(
            width, self.kernel_size, stride=self.stride, groups=width, name="depthwise_conv"
        )(x)
        x = nn.swish(self.norm(name="depthwise_norm")(x))
        x = SqueezeExcite(reduced, self.conv, name="squeeze_excite")(x)
        return self.norm(name="project_norm")(self.conv(self.features, 1, name="project_conv")(x))
