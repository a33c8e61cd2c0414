"""Losses of auxiliary classifiers, and the loss that a network names."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aggnets_jax import create_model
from aggnets_jax.training.losses import squared_hinge, training_losses
from tests.models.variables import random_variables

LABELS = jnp.asarray([0, 2])


def test_squared_hinge_by_hand():
    logits = jnp.asarray([[2.0, -0.5, 0.0]])
    # Right: margin 1 is reached. Wrong: 1 - 0.5 and 1 + 0 are missing.
    expected = 0.0 + 0.25 + 1.0
    assert float(squared_hinge(logits, jnp.asarray([0]))[0]) == pytest.approx(expected)
    one_hot = jnp.asarray([[1.0, 0.0, 0.0]])
    assert float(squared_hinge(logits, one_hot)[0]) == pytest.approx(expected)
    assert float(squared_hinge(logits, 0 * one_hot)[0]) == 0.0


def endpoints_of(model, size, strength=None):
    variables = random_variables(model, size, np.float32)
    if strength is not None:
        variables["strength"] = jax.tree.map(lambda _: jnp.float32(strength), variables["strength"])
    images = np.random.default_rng(1).standard_normal((2, size, size, 3)).astype(np.float32)

    def apply(variables):
        return model.apply(variables, images, train=True, mutable=["batch_stats"])[0]

    return jax.jit(apply)(variables)[1]


def test_companions_add_their_squared_hinge_by_weight_and_strength():
    model = create_model("dsn_cifar", 3, companions=0.1)
    assert model.loss == "squared_hinge"
    endpoints = endpoints_of(model, 16, strength=0.5)
    expected = squared_hinge(endpoints["logits"], LABELS) + 0.05 * sum(
        squared_hinge(endpoints[f"auxiliary{i}"], LABELS) for i in (1, 2, 3)
    )
    np.testing.assert_allclose(
        training_losses(model.loss, endpoints["logits"], endpoints, LABELS), expected, rtol=1e-5
    )


def test_auxiliary_heads_of_googlenet_add_their_cross_entropy():
    model = create_model("googlenet_cifar", 3, auxiliary_weight=0.3)
    endpoints = endpoints_of(model, 24)
    entropy = optax.softmax_cross_entropy_with_integer_labels
    expected = entropy(endpoints["logits"], LABELS) + 0.3 * sum(
        entropy(endpoints[f"auxiliary{i}"], LABELS) for i in (1, 2)
    )
    np.testing.assert_allclose(
        training_losses("cross_entropy", endpoints["logits"], endpoints, LABELS),
        expected,
        rtol=1e-5,
    )
