"""Networks as flat programs, and batch normalisation as a part of convolutions."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import export

from aggnets_jax.export.plain import plain
from aggnets_jax.layers.batch_norm import BatchNorm
from tests.models.variables import random_variables

IMAGES = np.random.default_rng(0).standard_normal((2, 6, 6, 3)).astype(np.float32)


def operations(function):
    """How often each operation is in a program, with a symbolic batch."""
    (batch,) = export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((batch, *IMAGES.shape[1:]), jnp.float32)
    equations = jax.make_jaxpr(function)(shape).eqns
    return collections.Counter(equation.primitive.name for equation in equations)


def function_of(module):
    variables = random_variables(module, 6, np.float32)
    return lambda images: module.apply(variables, images), variables


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), padding=1, use_bias=False, name="conv")(x)
        x = BatchNorm(True, jnp.float32, name="norm")(x)
        x = nn.relu(x).mean((1, 2))
        return BatchNorm(True, jnp.float32, name="last")(nn.Dense(5, name="linear")(x))


def test_calls_are_inlined_and_weights_are_computed():
    function, _ = function_of(Normalised())
    found = operations(plain(function))
    assert {"jit", "custom_jvp_call", "rsqrt"} & {*found} == set()
    assert found["mul"] == 2
    np.testing.assert_array_equal(plain(function)(IMAGES), function(IMAGES))


def test_normalisations_become_a_part_of_what_they_follow():
    function, variables = function_of(Normalised())
    folded = plain(function, fold=True)
    found = operations(folded)
    assert (found["mul"], found["sub"], found["add"]) == (0, 0, 2)
    np.testing.assert_allclose(folded(IMAGES), function(IMAGES), rtol=1e-5, atol=1e-6)

    # The kernel by its formula, w scale / sqrt(var + epsilon).
    params, var = variables["params"], variables["batch_stats"]["norm"]["var"]
    factor = params["norm"]["scale"] / np.sqrt(var + 1e-5)
    consts = jax.make_jaxpr(folded)(IMAGES).consts
    kernel = next(x for x in consts if np.ndim(x) == 4)
    np.testing.assert_allclose(kernel, params["conv"]["kernel"] * factor, rtol=1e-6)


class ReadTwice(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (1, 1), name="conv")(x)
        return BatchNorm(True, jnp.float32, name="norm")(x) + x


class OtherConstants(nn.Module):
    """Constants after a convolution that have no value for each feature, or none that fits."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (1, 1), use_bias=False, name="conv")(x)
        x = 2 * x - np.linspace(0, 1, 6, dtype=np.float32)[:, None]
        x = 1 - nn.Conv(1, (1, 1), use_bias=False, name="narrow")(x)
        return x + np.arange(6, dtype=np.float32)


@pytest.mark.parametrize("module", [ReadTwice(), OtherConstants()], ids=lambda m: type(m).__name__)
def test_what_can_not_be_folded_stays(module):
    function, _ = function_of(module)
    folded = plain(function, fold=True)
    assert (
        operations(folded)["conv_general_dilated"]
        == operations(plain(function))["conv_general_dilated"]
    )
    np.testing.assert_allclose(folded(IMAGES), function(IMAGES), rtol=1e-5, atol=1e-6)
