"""Cross entropy with smoothed targets, in both forms, against NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax.losses import cross_entropy, smooth_targets

RNG = np.random.default_rng(0)
LOGITS, LABELS = RNG.normal(size=(5, 7)), RNG.integers(0, 7, 5)
LOG_PROBABILITIES = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("over", "right", "wrong"), [("all", 1 / 7, 1 / 7), ("others", 0, 1 / 6)])
def test_smoothed_cross_entropy(smoothing, over, right, wrong):
    targets = np.full((5, 7), smoothing * wrong)
    targets[np.arange(5), LABELS] = 1 - smoothing + smoothing * right
    smoothed = smooth_targets(jnp.asarray(LABELS), 7, smoothing, over)
    np.testing.assert_allclose(smoothed, targets, rtol=1e-6)
    np.testing.assert_allclose(smoothed.sum(-1), 1, rtol=1e-6)
    losses = cross_entropy(jnp.asarray(LOGITS), smoothed)
    np.testing.assert_allclose(losses, -(targets * LOG_PROBABILITIES).sum(-1), rtol=1e-5)


def test_labels_are_one_hot_targets():
    losses = cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS))
    np.testing.assert_allclose(losses, -LOG_PROBABILITIES[np.arange(5), LABELS], rtol=1e-5)
