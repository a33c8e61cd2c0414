"""The auxiliary classifiers of GoogLeNet and the networks of architecture search.

In training, the task adds their losses to the loss of the logits, see `training/losses.py`. Their
logits are the endpoints `auxiliary1`, ..., and their weight is the endpoint `auxiliary_weight`.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from aggnets_jax.errors import UserError
from aggnets_jax.layers import common


class AuxiliaryHead(nn.Module):
    """[ReLU-]avg-pool 5x5/3-conv1x1(128)-BN-ReLU-convolution over the map(hidden)[-BN]-ReLU-linear.

    Attributes:
      num_classes: size of the logits.
      hidden: channels after the convolution over the whole map.
      norm: makes batch normalisations.
      conv: makes convolutions.
    """

    num_classes: int
    hidden: int
    norm: common.Norm
    conv: common.Conv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> logits [batch, num_classes].

        Raises:
          UserError: for a map that is smaller than the pooling.
        """
        if min(x.shape[1:3]) < 5:
            raise UserError(f"a map of {x.shape[1]}x{x.shape[2]} is too small for auxiliary heads")
        x = nn.avg_pool(nn.relu(x), (5, 5), strides=(3, 3))
        x = nn.relu(self.norm(name="norm1")(self.conv(128, 1, name="conv1")(x)))
        x = self.conv(self.hidden, x.shape[1:3], padding=0, name="conv2")(x)
        x = nn.relu(self.norm(name="norm2")(x))[:, 0, 0]
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        return nn.Dense(
            self.num_classes, dtype=dtype, kernel_init=common.uniform_fan_in, name="classifier"
        )(x)
