"""Layers in NumPy for straight-line references, which read variables of our networks by path."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from aggnets_jax import create_model
from tests.models.residual_numpy import convolve
from tests.models.variables import random_variables

# Compiling takes most of the time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def at(tree, path):
    return functools.reduce(lambda node, key: node[key], path.split("/"), tree)


class Layers:
    """Layers in training, or in evaluation; `updated` are the running averages after training."""

    def __init__(self, variables, train, epsilon=1e-5):
        self.params, self.stats = variables["params"], variables.get("batch_stats", {})
        self.train = train
        self.epsilon = epsilon
        self.updated = {}

    def norm(self, x, path):
        weights, running = at(self.params, path), at(self.stats, path)
        mean, var = running["mean"], running["var"]
        if self.train:
            mean = np.mean(x, (0, 1, 2))
            var = np.mean((x - mean) ** 2, (0, 1, 2))
            self.updated[path] = {
                "mean": 0.9 * running["mean"] + 0.1 * mean,
                "var": 0.9 * running["var"] + 0.1 * var,
            }
        return (x - mean) / np.sqrt(var + self.epsilon) * weights["scale"] + weights["bias"]

    def norm_relu(self, x, path):
        return np.maximum(self.norm(x, path), 0)

    def conv(self, x, path, stride=1, groups=1):
        weights = at(self.params, path)
        x = convolve(x, weights["kernel"], stride, groups)
        return x + weights["bias"] if "bias" in weights else x

    def linear(self, x, path):
        weights = at(self.params, path)
        return x @ weights["kernel"] + weights["bias"]


def halves(x):
    """The four values of each 2x2 window, on a new last axis."""
    n, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(n, h // 2, w // 2, c, 4)


def max_pool_3(x):
    """The maximum of 3x3 windows, at stride 2."""
    size = (x.shape[1] - 1) // 2 + 1
    x = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
    return functools.reduce(
        np.maximum,
        [
            x[:, i : i + 2 * size - 1 : 2, j : j + 2 * size - 1 : 2]
            for i in (0, 1, 2)
            for j in (0, 1, 2)
        ],
    )


def assert_straight_line(name, overrides, size, reference, train, epsilon=1e-5):
    """Compares a network in float64 with `reference(layers, images) -> logits`."""
    with jax.enable_x64(True):
        model = create_model(name, 7, dtype=jnp.float64, **overrides)
        variables = random_variables(model, size)
        images = np.random.default_rng(1).standard_normal((3, size, size, 3))

        @jit
        def ours(variables, images):
            (logits, _), updates = model.apply(
                variables, images, train=train, mutable=["batch_stats"]
            )
            return logits, updates.get("batch_stats", {})

        logits, batch_stats = ours(variables, images)
    layers = Layers(variables, train, epsilon)
    expected_logits, updated = reference(layers, images), layers.updated
    assert logits.dtype == jnp.float64
    assert logits.shape == (3, 7)
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-9, atol=1e-9)
    norms = len(jax.tree.leaves(variables.get("batch_stats", {}))) // 2
    assert len(updated) == (norms if train else 0)
    for path, values in updated.items():
        for kind, value in values.items():
            actual = at(batch_stats, path)[kind]
            np.testing.assert_allclose(actual, value, rtol=1e-9, atol=1e-9, err_msg=path)
