"""The SMG module of HCGNet: a squeeze cell, a multi-scale excitation cell, and two gates.

Paper: Yang et al., "Gated Convolutional Networks with Hybrid Connectivity for Image
Classification", AAAI 2020, arXiv 1908.09699.

    X = squeeze(x),  A = dw3x3(X),  B = dw3x3(X) of dilation 2
    SMG(x) = X * f(X) + v(A, B)

                         .-- P -- bottleneck, sigmoid: f --.
    x -- 1x1 -- 3x3 -- X +---------------------------------*--(+)-- SMG(x)
                         +-- dw3x3 ------------ A -- P --.      |
                         '-- dw3x3, dilation 2  B -- P --+-- v -'

P is a mean over positions with weights from a softmax (eq. 5 and 6). The forget gate f (eq. 11)
decays each channel of the reused map X; the update gate v (eq. 7 to 10) weighs P(A) against P(B)
and is added to every position. Each convolution of maps has BN-ReLU before it.

Where the paper and the reference code (https://github.com/winycg/HCGNet) differ: eq. 7 has the bias
outside the normalisation, and eq. 8 has one bias for both heads. In the code, and by the counts,
the bias is inside (where it has no effect in training), and each head has its own. The widths of
the gates' hidden layers are rounded down.

The gates are "general plug-ins" (Section 1): `Gated` puts them around the output of any unit, as
`attention.py` does with SE and CBAM.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from aggnets_jax.connectivity.aggregation import Masked
from aggnets_jax.errors import UserError
from aggnets_jax.layers import common


def _linear(features: int, inputs: jax.Array, conv: common.Conv, name: str) -> jax.Array:
    """Apply a 1x1 convolution with bias, the linear layer of the gates."""
    bias_init = common.uniform_bias(inputs.shape[-1])
    return conv(features, 1, bias_init=bias_init, name=name)(inputs)


def _softmax(x: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
    """Return the softmax in at least float32."""
    return nn.softmax(x.astype(jnp.promote_types(x.dtype, jnp.float32)), axis)


GATE_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"tanh": jnp.tanh, "relu": nn.relu}


class AttentionPool(nn.Module):
    """P: the mean over positions, weighted by a softmax over their scores (eq. 5 and 6)."""

    conv: common.Conv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> [batch, 1, 1, channels]."""
        weights = _softmax(_linear(1, x, self.conv, "scores"), (1, 2))
        return jnp.sum(x * weights, (1, 2), keepdims=True).astype(x.dtype)


class ForgetGate(nn.Module):
    """f = sigmoid(W_2 tanh(BN(W_1 P(X) + b_1)) + b_2), by channel (eq. 11), via `hidden` ones.

    `activation` is one of `GATE_ACTIVATIONS`, the paper's tanh by default.
    """

    hidden: int
    norm: common.Norm
    conv: common.Conv
    activation: str = "tanh"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> [batch, 1, 1, channels] in (0, 1)."""
        z = AttentionPool(self.conv, name="pool")(x)
        z = self.norm(name="norm")(_linear(self.hidden, z, self.conv, "linear1"))
        z = GATE_ACTIVATIONS[self.activation](z)
        return nn.sigmoid(_linear(x.shape[-1], z, self.conv, "linear2"))


class UpdateGate(nn.Module):
    """v = u P(A) + (1 - u) P(B); u is a softmax of two heads that read both (eq. 7 to 10).

    The heads share a layer of the width `hidden`, with an `activation` as in `ForgetGate`.
    """

    hidden: int
    norm: common.Norm
    conv: common.Conv
    activation: str = "tanh"

    @nn.compact
    def __call__(self, x_3x3: jax.Array, x_5x5: jax.Array) -> jax.Array:
        """[batch, height, width, channels] each -> [batch, 1, 1, channels]."""
        z_3x3 = AttentionPool(self.conv, name="pool_3x3")(x_3x3)
        z_5x5 = AttentionPool(self.conv, name="pool_5x5")(x_5x5)
        z = jnp.concatenate([z_3x3, z_5x5], axis=-1)
        h = self.norm(name="norm")(_linear(self.hidden, z, self.conv, "linear"))
        h = GATE_ACTIVATIONS[self.activation](h)
        heads = [_linear(x_3x3.shape[-1], h, self.conv, f"head_{k}") for k in ("3x3", "5x5")]
        u_3x3, u_5x5 = _softmax(jnp.stack(heads), 0).astype(z.dtype)
        return u_3x3 * z_3x3 + u_5x5 * z_5x5


def _two_scales(x: jax.Array, norm: common.Norm, conv: common.Conv) -> tuple[jax.Array, jax.Array]:
    """Compute A and B, the multi-scale excitation cell, with modules of the current scope."""

    def scale(name: str, dilation: int) -> jax.Array:
        y, channels = nn.relu(norm(name=f"norm_{name}")(x)), x.shape[-1]
        return conv(channels, 3, groups=channels, dilation=dilation, name=f"conv_{name}")(y)

    # Dilated, so that the 9 weights span 5x5.
    return scale("3x3", 1), scale("5x5", 2)


class Gated(nn.Module):
    """The gates of HCGNet around any unit: x f(x) + v(A, B), or one of both.

    Attributes:
      forget: whether f decays x; otherwise x does not change.
      update: whether v of two depthwise convolutions of x is added.
      reduction: r, by which the hidden layers of the gates are narrower than their input.
    """

    norm: common.Norm
    conv: common.Conv
    forget: bool
    update: bool
    reduction: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same shape."""
        y, channels = x, x.shape[-1]
        if self.forget:
            hidden = max(1, channels // self.reduction)
            y = x * ForgetGate(hidden, self.norm, self.conv, name="forget_gate")(x)
        if self.update:
            hidden = max(1, 2 * channels // self.reduction)
            gate = UpdateGate(hidden, self.norm, self.conv, name="update_gate")
            y = y + gate(*_two_scales(x, self.norm, self.conv))
        return y


class SMG(nn.Module):
    """The unit: squeeze cell, multi-scale excitation cell and gates (Fig. 2).

    Attributes:
      features: C, the channels of the output.
      width: channels between the two convolutions of the squeeze cell.
      groups: groups of its 3x3 convolution.
      stride: stride of its 3x3 convolution.
      reduction: r, by which the hidden layers of the gates are narrower than their input.
      update_reduction: r of the update gate, if it differs from the one of the forget gate.
      activation: activation within the gates, one of `GATE_ACTIVATIONS`.
    """

    features: int
    width: int
    groups: int
    stride: int
    reduction: int
    norm: common.Norm
    conv: common.Conv
    update_reduction: int | None = None
    activation: str = "tanh"

    @nn.compact
    def __call__(self, x: jax.Array | Masked) -> jax.Array:
        """[batch, height, width, channels] -> [batch, height / stride, width / stride, features].

        Raise `UserError` if the hidden layer of a gate would have no channels.
        """
        r_forget, r_update = self.reduction, self.update_reduction or self.reduction
        if self.features < r_forget or 2 * self.features < r_update:
            raise UserError(
                f"an SMG module of {self.features} channels is too narrow for gates that reduce"
                f" them by {max(r_forget, r_update)}"
            )

        def norm_relu_conv(
            x: jax.Array | Masked, index: str, *arguments: int, **keywords: int
        ) -> jax.Array:
            x = common.activate(self.norm(name=f"norm{index}"), x)
            return self.conv(*arguments, **keywords, name=f"conv{index}")(x)

        channels = self.features
        x = norm_relu_conv(x, "1", self.width, 1)
        x = norm_relu_conv(x, "2", channels, 3, stride=self.stride, groups=self.groups)
        scales = _two_scales(x, self.norm, self.conv)

        rest = self.norm, self.conv, self.activation
        forget = ForgetGate(channels // r_forget, *rest, name="forget_gate")
        update = UpdateGate(2 * channels // r_update, *rest, name="update_gate")
        return x * forget(x) + update(*scales)
