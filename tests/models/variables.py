"""Parameters and running averages to compare networks with."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import aggnets_jax

_param = nn.Module.param


def _param_of_zeros(self, name, init, *arguments, **keywords):
    return _param(self, name, nn.initializers.zeros, *arguments, **keywords)


def starting_from_zeros():
    """Where only shapes matter: tracing random numbers takes a third of the time."""
    return mock.patch.object(nn.Module, "param", _param_of_zeros)


def model_info(name, num_classes=None, **overrides):
    """Initialise a network as the package does, in less time."""
    with starting_from_zeros():
        return aggnets_jax.model_info(name, num_classes, **overrides)


@functools.cache
def shapes_of(model, size, channels):
    """A network's variables without values."""
    images = jnp.zeros((1, size, size, channels))
    with starting_from_zeros():
        return jax.eval_shape(model.init, jax.random.key(0), images)


def random_variables(model, size, dtype=np.float64, channels=3):
    """Any values, so that no scale is 1 and no shift 0."""
    random = np.random.default_rng(0)

    def draw(path, leaf):
        kind = path[-1].key
        if kind in ("scale", "var"):
            return random.uniform(0.5, 1.5, leaf.shape).astype(dtype)
        spread = 1 / np.sqrt(np.prod(leaf.shape[:-1])) if kind == "kernel" else 0.1
        return (spread * random.standard_normal(leaf.shape)).astype(dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(model, size, channels))
