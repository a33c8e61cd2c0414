"""Variables of a network that are random, and need no compilation of its initialisation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from aggnets_jax.connectivity.scan_variables import layers_of_run
from aggnets_jax.training.state import Variables


def abstract_variables(model: nn.Module, image_shape: tuple[int, ...]) -> Variables:
    """The shapes of a network's "params" and "batch_stats"; nothing is computed."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    shapes = jax.eval_shape(lambda images: model.init(jax.random.key(0), images), images)
    return {name: shapes.get(name, {}) for name in ("params", "batch_stats")}


def random_variables(shapes: Variables, seed: int = 0) -> Variables:
    """Variables of given shapes, by their names, as a network in training could have them.

    Kernels have He's variance, 2 by the inputs of a unit; scales and variances are about 1, all
    others about 0, with a deviation of 0.1, so that none can be left out unnoticed. A deep
    network's own initialisation takes as long to compile as its step.

    Args:
      shapes: from `abstract_variables`.
      seed: of the numbers.

    Returns:
      Arrays of the host, in a tree like `shapes`.
    """
    random = np.random.default_rng(seed)

    def make(path: tuple[Any, ...], shape: jax.ShapeDtypeStruct) -> np.ndarray:
        values = random.standard_normal(shape.shape, np.float32)
        name = path[-1].key
        if name == "kernel":
            of_several_layers = any(layers_of_run(part.key) for part in path)
            values *= np.sqrt(2 / max(1, np.prod(shape.shape[of_several_layers:-1])))
        elif name in ("scale", "var"):
            values = 1 + 0.1 * np.abs(values)
        else:
            values *= 0.1
        return values.astype(shape.dtype)

    return jax.tree_util.tree_map_with_path(make, shapes)
