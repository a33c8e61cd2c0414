"""Losses of auxiliary classifiers, and the loss that a network names."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from aggnets_jax import create_model
from aggnets_jax.evaluate import evaluation_batches
from aggnets_jax.runtime.mesh import make_mesh, replicated
from aggnets_jax.train import train_and_evaluate
from aggnets_jax.training.losses import cross_entropy, squared_hinge, training_losses
from aggnets_jax.workdir.restore import restore_network
from tests.models.variables import random_variables
from tests.runs import tiny_config

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
        training_losses(squared_hinge, endpoints["logits"], endpoints, LABELS), expected, rtol=1e-5
    )


@pytest.mark.slow
def test_auxiliary_heads_of_googlenet_add_their_cross_entropy():
    model = create_model("googlenet_cifar", 3, auxiliary_weight=0.3)
    endpoints = endpoints_of(model, 24)
    entropy = optax.softmax_cross_entropy_with_integer_labels
    expected = entropy(endpoints["logits"], LABELS) + 0.3 * sum(
        entropy(endpoints[f"auxiliary{i}"], LABELS) for i in (1, 2)
    )
    np.testing.assert_allclose(
        training_losses(cross_entropy, endpoints["logits"], endpoints, LABELS),
        expected,
        rtol=1e-5,
    )


def train(workdir, model, data, **changes):
    """Train for two steps whose batch is the whole split, and so slowly that nothing moves.

    Return the losses of both steps, the evaluation, and the network and its images and labels.
    """
    config = {"total_steps": 2, "log_every_steps": 1, "eval_every_steps": 2, "lr": 1e-12}
    config |= {"model": model, "data": {**data, "flip": False, "crop_padding": 0}, **changes}
    summary = train_and_evaluate(tiny_config(None, **config), workdir)
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    restored = restore_network(workdir, "latest", replicated(make_mesh()))
    (batch,) = evaluation_batches(restored, make_mesh())
    pixels = np.asarray(batch["image"], np.float32) / 255
    images = (pixels - np.asarray(restored.info.mean)) / np.asarray(restored.info.std)
    return losses, summary["final"], restored, images, np.asarray(batch["label"])


@pytest.mark.slow
def test_a_run_trains_by_the_companions_which_fade_out(data_dir, tmp_path):
    data = {"name": "aggnets_digits", "data_dir": data_dir}
    data |= dict.fromkeys(("train_split", "eval_split"), "train[:32]")
    losses, final, restored, images, labels = train(
        tmp_path,
        {"name": "dsn_cifar", "args": {"companions": 0.1}},
        data,
        eval_batch_size=32,
        strength=1.0,
        strength_schedule="fade",
    )
    _, endpoints = jax.jit(restored.model.apply)(restored.variables, images)
    main = squared_hinge(endpoints["logits"], labels).mean()
    companions = [squared_hinge(endpoints[f"auxiliary{i}"], labels).mean() for i in (1, 2, 3)]
    assert min(companions) > 1
    expected = [main + 0.1 * strength * sum(companions) for strength in (1, 0.5)]
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    # The evaluation knows the output alone.
    entropy = optax.softmax_cross_entropy_with_integer_labels(endpoints["logits"], labels)
    assert final["loss"] == pytest.approx(float(entropy.mean()), rel=1e-4)


@pytest.mark.slow
def test_a_run_trains_by_the_auxiliary_heads_of_googlenet(tmp_path):
    # Images of one shade, which no crop changes.
    for k in range(16):
        for split in ("train", "test"):
            folder = tmp_path / "images" / split / f"class{k % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (24, 24), (16 * k, 255 - 16 * k, 8 * k)).save(folder / f"{k}.png")
    data = {"name": "image_folder", "data_dir": str(tmp_path / "images"), "image_size": 24}
    losses, final, restored, images, labels = train(
        tmp_path / "run",
        {"name": "googlenet_cifar", "args": {"auxiliary_weight": 0.3}},
        data,
        batch_size=16,
        eval_batch_size=16,
    )
    (_, endpoints), _ = jax.jit(
        lambda variables: restored.model.apply(
            variables, images, train=True, mutable=["batch_stats"]
        )
    )(restored.variables)
    entropy = optax.softmax_cross_entropy_with_integer_labels
    main, *heads = (
        float(entropy(endpoints[name], labels).mean())
        for name in ("logits", "auxiliary1", "auxiliary2")
    )
    np.testing.assert_allclose(losses, [main + 0.3 * sum(heads)] * 2, rtol=1e-3)
    assert np.isfinite(final["loss"])
