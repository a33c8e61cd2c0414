"""The workload of a measurement: a network in one form, with its config, images and variables."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import linen as nn

from aggnets_jax import config as config_lib
from aggnets_jax import create_model
from aggnets_jax.benchmark.forms import Form
from aggnets_jax.connectivity.scan_variables import layers_of_run
from aggnets_jax.data import Batch
from aggnets_jax.training.state import Variables


@dataclasses.dataclass(frozen=True)
class Workload:
    """A network in a form, and the size of its batches.

    Attributes:
      model: name of the network in the registry.
      batch_size: images of a step, over all devices.
      image_shape: (height, width, channels).
      arguments: arguments of the network, besides the arguments of the form.
      form: form of the network.
      num_classes: number of classes; None: the family's default.
      dtype: dtype of the computation, "float32" or "bfloat16"; parameters are float32.
      steps_per_dispatch: training steps in one call of a program; several run in a loop.
    """

    model: str
    batch_size: int
    image_shape: tuple[int, int, int]
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    form: Form = dataclasses.field(default_factory=Form)
    num_classes: int | None = None
    dtype: str = "float32"
    steps_per_dispatch: int = 1

    def create(self) -> nn.Module:
        """Create the network; raises `UserError` as `create_model` does."""
        arguments = {**self.arguments, **self.form.arguments}
        return create_model(self.model, self.num_classes, dtype=jnp.dtype(self.dtype), **arguments)

    def config(self) -> ml_collections.ConfigDict:
        """Return the default config with this batch size and dtype."""
        return config_lib.resolve({"batch_size": self.batch_size, "dtype": self.dtype})

    def random_batch(self) -> Batch:
        """Draw images float32 [B, H, W, C] and labels int32 [B], with a mask for evaluation."""
        images, labels = jax.random.split(jax.random.key(0))
        size = self.batch_size
        return {
            "image": jax.random.normal(images, (size, *self.image_shape)),
            "label": jax.random.randint(labels, (size,), 0, self.create().num_classes),
            "mask": jnp.ones(size, bool),
        }


def abstract_variables(model: nn.Module, image_shape: tuple[int, ...]) -> Variables:
    """Return the shapes of a network's "params" and "batch_stats" without computing them."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    shapes = jax.eval_shape(lambda images: model.init(jax.random.key(0), images), images)
    return {name: shapes.get(name, {}) for name in ("params", "batch_stats")}


def random_variables(shapes: Variables, seed: int = 0) -> Variables:
    """Draw plausible variables, because compiling a deep network's initialisation is slow.

    Kernels have He's variance, 2 / inputs of a unit. Scales and variances are at least 1 and all
    other values are near 0, both with a deviation of 0.1. None is neutral, so that comparisons of
    networks notice if code skips one.

    Args:
      shapes: from `abstract_variables`; names decide on the distribution.
      seed: seed of the random numbers.

    Returns:
      Arrays on the host, in a tree like `shapes`.
    """
    random = np.random.default_rng(seed)

    def draw(path: tuple[Any, ...], shape: jax.ShapeDtypeStruct) -> np.ndarray:
        values = random.standard_normal(shape.shape, np.float32)
        name = path[-1].key
        if name == "kernel":
            # Axis 0 may be the layers of a loop.
            stacked = any(layers_of_run(part.key) for part in path)
            values *= np.sqrt(2 / max(1, np.prod(shape.shape[stacked:-1])))
        elif name in ("scale", "var"):
            values = 1 + 0.1 * np.abs(values)
        else:
            values *= 0.1
        return values.astype(shape.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)
