"""Statistics of features far from zero, alone and shared, beside float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax.connectivity.features import (
    batch_statistics,
    shift_over_devices,
    statistics_over,
    with_statistics,
)
from aggnets_jax.layers.batch_norm import AffineBatchNorm, BatchNorm
from aggnets_jax.layers.shortcuts import NORMS
from tests.marks import mostly_slow

FAR = ((0, 1), (10, 0.1), (100, 1), (100, 0.1), (300, 0.1), (1000, 1), (1000, 0.1))


def _draw(mean, std, shape=(32, 16, 16, 4)):
    rng = np.random.default_rng(0)
    return (mean + std * rng.normal(size=shape)).astype(np.float32)


def _normalised(x, axes):
    x = x.astype(np.float64)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)


@pytest.mark.parametrize(("mean", "std"), FAR)
def test_a_normalisation_keeps_its_digits_far_from_zero(mean, std):
    x = _draw(mean, std)
    expected = _normalised(x, (0, 1, 2))
    # Half a unit in the last place of the mean, in deviations of the output.
    rounding = 4 * np.spacing(np.float32(mean + 1)) / std
    for features in (x, with_statistics(x)):  # alone and shared
        norm = BatchNorm(use_running_average=False, dtype=jnp.float32)
        output, _ = norm.init_with_output(jax.random.key(0), features)
        np.testing.assert_allclose(output, expected, atol=max(2e-5, rounding))


@pytest.mark.parametrize("norm", ["group", "layer", "instance"])
def test_normalisations_of_one_image_keep_their_digits_far_from_zero(norm):
    x = _draw(1000, 0.1)
    groups = {"group": 1, "layer": 1, "instance": 4}[norm]
    grouped = x.reshape(32, 256, groups, -1)
    var = grouped.astype(np.float64).var((1, 3))
    found, _ = NORMS[norm](True)(name=None).init_with_output(jax.random.key(0), x)
    factor = np.repeat(1 / np.sqrt(var + 1e-5), 4 // groups, 1)
    np.testing.assert_allclose(found.factor[:, 0, 0], factor, rtol=1e-3)


@mostly_slow("shape", [(16, 3), (16, 1, 1, 3), (2, 5, 4, 3), (1, 7, 7, 3)], quick=(1, 2))
def test_the_shift_changes_neither_values_nor_derivatives(shape):
    """In float64, against two passes."""
    with jax.enable_x64(True):
        x = jnp.asarray(_draw(1, 2, shape), jnp.float64)
        weights = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3)))
        axes = tuple(range(len(shape) - 1))

        def two_passes(x):
            return x.mean(axes), x.var(axes)

        def total(statistics):
            return lambda x: jnp.sum(weights * jnp.stack(statistics(x)) ** 2)

        for derive in (
            lambda f: f,
            jax.grad,
            lambda f: jax.grad(lambda x: (jax.grad(f)(x) ** 3).sum()),
        ):
            found, expected = (derive(total(s))(x) for s in (batch_statistics, two_passes))
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_a_division_over_devices_has_the_statistics_of_the_whole():
    x = _draw(1000, 0.1, (8, 4, 4, 2))
    parts = x.reshape(4, 2, 4, 4, 2)
    with statistics_over("parts"), shift_over_devices():
        mean, var = jax.vmap(batch_statistics, axis_name="parts")(parts)
    np.testing.assert_allclose(mean, np.tile(x.mean((0, 1, 2), np.float64), (4, 1)), rtol=1e-6)
    np.testing.assert_allclose(var, np.tile(x.var((0, 1, 2), np.float64), (4, 1)), rtol=1e-3)


def test_the_affine_form_normalises_alike():
    x = _draw(5, 1)
    norm = AffineBatchNorm(use_running_average=False, dtype=jnp.float32)
    (factor, shift), _ = norm.init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(factor * x + shift, _normalised(x, (0, 1, 2)), atol=1e-4)
