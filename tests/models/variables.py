"""Parameters and running averages to compare networks with."""

import jax
import jax.numpy as jnp
import numpy as np


def random_variables(model, size, dtype=np.float64, channels=3):
    """Any values, so that no scale is 1 and no shift 0."""
    images = jnp.zeros((1, size, size, channels))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    random = np.random.default_rng(0)

    def draw(path, leaf):
        kind = path[-1].key
        if kind in ("scale", "var"):
            return random.uniform(0.5, 1.5, leaf.shape).astype(dtype)
        spread = 1 / np.sqrt(np.prod(leaf.shape[:-1])) if kind == "kernel" else 0.1
        return (spread * random.standard_normal(leaf.shape)).astype(dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)
