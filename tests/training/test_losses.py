"""Losses and smoothed targets, against NumPy and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from aggnets_jax import config as config_lib
from aggnets_jax.tasks.classification import Classification
from aggnets_jax.training.losses import (
    binary_cross_entropy,
    binary_focal,
    cross_entropy,
    focal,
    make_loss,
    smooth_targets,
)
from aggnets_jax.training.state import initial_state
from aggnets_jax.training.step import make_train_step
from tests.patterns import one_line_error

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


# Rows of mixed images, of one class, and of several and no classes.
TARGETS = np.array(
    [
        [0.3, 0.7, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0, 0],
        [0.15, 0, 0.85, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0],
    ]
)
P = 1 / (1 + np.exp(-LOGITS))


@pytest.mark.parametrize("threshold", [None, 0.2])
def test_binary_cross_entropy(threshold):
    targets = TARGETS if threshold is None else np.greater(TARGETS, threshold)
    expected = -(targets * np.log(P) + (1 - targets) * np.log(1 - P)).mean(-1)
    losses = binary_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(TARGETS), threshold=threshold)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_binary_cross_entropy_is_that_of_pytorch():
    torch = pytest.importorskip("torch")
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(LOGITS), torch.tensor(TARGETS), reduction="none"
    )
    losses = binary_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(TARGETS))
    np.testing.assert_allclose(losses, expected.mean(-1).numpy(), rtol=1e-5)


def test_focal_losses():
    p = np.exp(LOG_PROBABILITIES)
    expected = -(TARGETS * (1 - p) ** 3 * LOG_PROBABILITIES).sum(-1)
    logits, targets = jnp.asarray(LOGITS), jnp.asarray(TARGETS)
    np.testing.assert_allclose(focal(logits, targets, gamma=3.0), expected, rtol=1e-5)
    np.testing.assert_allclose(
        focal(logits, targets, gamma=0.0), cross_entropy(logits, targets), 1e-5
    )
    whole = TARGETS.round()
    right = whole * P + (1 - whole) * (1 - P)
    weight = 0.25 * whole + 0.75 * (1 - whole)
    expected = -(weight * (1 - right) ** 2 * np.log(right)).mean(-1)
    losses = binary_focal(logits, jnp.asarray(whole), alpha=0.25)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_certain_images_have_finite_gradients(gamma):
    """In float32, p is 1."""
    logits = jnp.array([[30.0, 0.0], [0.0, 120.0]])
    gradient = jax.grad(lambda x: focal(x, jnp.array([0, 0]), gamma=gamma).sum())(logits)
    assert np.isfinite(gradient).all() and gradient[1, 1] > 0.9


@pytest.mark.parametrize("loss", [binary_cross_entropy, binary_focal, focal])
def test_labels_are_one_hot_targets_of_every_loss(loss):
    hot = loss(jnp.asarray(LOGITS), jnp.asarray(np.eye(7)[LABELS]))
    np.testing.assert_allclose(loss(jnp.asarray(LOGITS), jnp.asarray(LABELS)), hot, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "bce"}, "unknown loss 'bce'; allowed: binary_cross_entropy, binary_focal"),
        ({"loss": "focal", "loss_args": {"alpha": 0.1}}, "loss 'focal' has no argument 'alpha'"),
        ({"loss_args": {"gamma": 1.0}}, "loss 'cross_entropy' has no argument 'gamma'"),
    ],
)
def test_losses_that_are_refused(changes, message):
    config = config_lib.resolve(changes)
    assert message in one_line_error(make_loss, config, None, "cross_entropy")


class Linear(nn.Module):
    """No batch normalisation, through which an image changes what the others give."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(self.num_classes)(images.reshape(len(images), -1)), {}


@pytest.mark.parametrize(
    ("smoothing", "loss"),
    [(0.0, "cross_entropy"), (0.1, "cross_entropy"), (0.0, "binary_cross_entropy")],
)
@pytest.mark.parametrize("parts", [1, 2])
def test_a_skipped_image_adds_nothing_to_the_gradient(smoothing, loss, parts):
    images = RNG.normal(size=(6, 4, 4, 1)).astype(np.float32)
    labels = np.array([1, -1, 2, 3, -1, 9], np.int32)
    kept = labels >= 0
    changes = {"accumulation_steps": parts, "label_smoothing": smoothing, "loss": loss}
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
