"""Cross entropy with smoothed targets, in both forms, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from aggnets_jax import config as config_lib
from aggnets_jax.tasks.classification import Classification
from aggnets_jax.training.losses import cross_entropy, smooth_targets
from aggnets_jax.training.state import initial_state
from aggnets_jax.training.step import make_train_step

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


class Linear(nn.Module):
    """No batch normalisation, through which an image changes what the others give."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(self.num_classes)(images.reshape(len(images), -1)), {}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_skipped_image_adds_nothing_to_the_gradient(smoothing, parts):
    images = RNG.normal(size=(6, 4, 4, 1)).astype(np.float32)
    labels = np.array([1, -1, 2, 3, -1, 9], np.int32)
    kept = labels >= 0
    changes = {"accumulation_steps": parts, "label_smoothing": smoothing}
    variables = Linear().init(jax.random.key(0), images, train=False)

    def after(damaged, rows):
        config = config_lib.resolve({"data": {"damaged": damaged}, **changes})
        optimizer = optax.sgd(1.0)
        step = make_train_step(
            Classification(), Linear(), optimizer, lambda batch, **_: batch["image"], config
        )
        state = jax.jit(step)(
            initial_state(variables, optimizer, config, 0, Classification.sums),
            {"image": images[rows], "label": labels[rows]},
        )
        return jax.tree.map(jnp.subtract, state.params, variables["params"]), state.totals

    everything, totals = after("skip", slice(None))
    whole, totals_of_whole = after("stop", kept)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, 4 / 6 * b, rtol=1e-5, atol=1e-7),
        everything,
        whole,
    )
    assert float(totals["loss"]) == pytest.approx(4 / 6 * float(totals_of_whole["loss"]), rel=1e-5)
    assert int(totals["correct"]) == int(totals_of_whole["correct"])
    assert (int(totals["skipped"]), int(totals_of_whole["skipped"])) == (2, 0)
