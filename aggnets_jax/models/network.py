"""The frame of a network: images in, logits and endpoints out."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from aggnets_jax.connectivity.execution import Execution
from aggnets_jax.layers import common

Endpoints = dict[str, jax.Array]
"""Features by name, which a network collects while it computes."""


class Network(nn.Module, kw_only=True):
    """Features of images, and a classifier of them; a family says which, in `_features`.

    Attributes:
      num_classes: size of the logits.
      dtype: dtype of the computation.
      execution: how the stages are computed.
    """

    num_classes: int
    dtype: DTypeLike = jnp.float32
    execution: Execution = Execution()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, Endpoints]:
        """Classify images.

        Args:
          images: [batch, height, width, channels], normalised.
          train: whether to normalise by the batch and to apply dropout (rng "dropout").

        Returns:
          Logits [batch, num_classes] of at least float32, and the endpoints by name: `stem`,
          `stage1`, ..., `pre_logits_2d` [batch, height, width, channels], `pre_logits`
          [batch, features] and `logits`.
        """
        norm = common.batch_norm(train=train, dtype=self.dtype)
        conv = partial(common.conv, dtype=self.dtype)
        endpoints: Endpoints = {}
        x = self._features(common.as_images(images, self.dtype), endpoints, norm, conv, train)
        head = self._head(x, train)
        return common.classify(x, endpoints, self.num_classes, dtype=self.dtype, **head)

    def _features(
        self, x: jax.Array, endpoints: Endpoints, norm: common.Norm, conv: common.Conv, train: bool
    ) -> jax.Array:
        """Return the input of the classifier [batch, height, width, channels]; add endpoints."""
        raise NotImplementedError

    def _head(self, x: jax.Array, train: bool) -> dict[str, Any]:
        """Return the arguments of `common.classify` for the features x beyond the usual ones."""
        return {}
