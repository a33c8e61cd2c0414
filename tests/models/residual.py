"""Small residual networks to compare with straight-line code."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from aggnets_jax import create_model
from tests.models.variables import random_variables

# Compiling takes most of the time here.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

SIZE = 8


def logits_and_expected(name, expected, *, train=False, **overrides):
    """Logits in float64 of a network, and `expected(variables, images)`.

    Args:
      name: of the network or family.
      expected: straight-line code.
      train: whether to normalise by the batch.
      **overrides: arguments of the family.
    """
    with jax.enable_x64(True):
        model = create_model(name, 5, dtype=jnp.float64, **overrides)
        variables = random_variables(model, SIZE)
        images = np.random.default_rng(1).standard_normal((2, SIZE, SIZE, 3))

        def apply(variables, images):
            return model.apply(variables, images, train=train, mutable=["batch_stats"])[0][0]

        logits = np.asarray(jit(apply)(variables, images))
    assert logits.dtype == np.float64
    return logits, expected(variables, images)


def assert_is(name, expected, **keywords):
    logits, expected = logits_and_expected(name, expected, **keywords)
    np.testing.assert_allclose(logits, expected, rtol=1e-9, atol=1e-9)


_param = nn.Module.param


def _trace(model, size, param):
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    with mock.patch.object(nn.Module, "param", param):
        return jax.eval_shape(model.init, jax.random.key(0), images)["params"]


def shapes(name, num_classes=None, size=8, **overrides):
    """Shapes of the parameters of a network, by name."""

    # Tracing the random numbers takes a third of the time.
    def zeros(self, name, init, *arguments, **keywords):
        return _param(self, name, nn.initializers.zeros, *arguments, **keywords)

    return _trace(create_model(name, num_classes, **overrides), size, zeros)


def parameters(name, num_classes=None, size=8, **overrides):
    """How many parameters a network has."""
    leaves = jax.tree.leaves(shapes(name, num_classes, size, **overrides))
    return sum(leaf.size for leaf in leaves)


def drawn(name, *paths, size=8, **overrides):
    """Initial values of the parameters at some paths, without those of the others."""
    makers = {}

    def record(self, name, init, *arguments, **keywords):
        makers["/".join((*self.path, name))] = (init, arguments)
        return _param(self, name, init, *arguments, **keywords)

    _trace(create_model(name, **overrides), size, record)
    key = jax.random.key(0)
    return [np.asarray(init(key, *arguments)) for init, arguments in map(makers.get, paths)]
