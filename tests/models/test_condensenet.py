"""CondenseNet: lost weights stay lost, and the condensed form computes the same function."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from aggnets_jax import config as config_lib
from aggnets_jax import create_model
from aggnets_jax.errors import UserError
from aggnets_jax.evaluate import evaluate_checkpoint, evaluation_batches
from aggnets_jax.models.condensenet import LEARNED, condense, export, lost
from aggnets_jax.models.flops import count
from aggnets_jax.runtime.mesh import make_mesh, replicated
from aggnets_jax.tasks.classification import Classification
from aggnets_jax.train import train_and_evaluate
from aggnets_jax.workdir.restore import restore_network
from tests.models.variables import random_variables, starting_from_zeros
from tests.patterns import one_line_error
from tests.runs import tiny_config

SIZE = 8


def small(**fields):
    return create_model("condensenet", 5, stage_depths=(2, 3), growth_rate=(4, 8), **fields)


def learned(params):
    flat = traverse_util.flatten_dict(params)
    return [np.asarray(kernel) for path, kernel in flat.items() if LEARNED in path]


def test_a_step_takes_the_weakest_inputs_of_each_group():
    kernel = np.random.default_rng(0).standard_normal((1, 1, 8, 8)).astype(np.float32)
    gone = np.asarray(lost(jnp.asarray(kernel), 1))[0, 0]
    for group in range(4):
        strength = np.abs(kernel[0, 0, :, group::4]).sum(1)
        weakest = set(np.argsort(strength)[:2])
        assert all(set(np.flatnonzero(gone[:, o])) == weakest for o in range(group, 8, 4))


def test_steps_keep_what_earlier_steps_took():
    params = random_variables(small(), SIZE, np.float32)["params"]
    for steps in (1, 2, 3):
        kernels = learned(condense(params, steps))
        assert all((kernel == 0).mean() == steps / 4 for kernel in kernels)
    once, thrice = (learned(condense(params, steps)) for steps in (1, 3))
    assert all(np.all(b[a == 0] == 0) for a, b in zip(once, thrice, strict=True))


def test_lost_weights_have_no_gradient():
    model = small()
    variables = random_variables(model, SIZE, np.float32)
    params = condense(variables["params"])
    images = np.random.default_rng(1).standard_normal((2, SIZE, SIZE, 3)).astype(np.float32)

    def loss(params):
        return model.apply({**variables, "params": params}, images)[0].sum()

    gradients = learned(jax.jit(jax.grad(loss))(params))
    for kernel, gradient in zip(learned(params), gradients, strict=True):
        assert np.all(gradient[kernel == 0] == 0)
        assert np.any(gradient[kernel != 0] != 0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32])
def test_the_condensed_form_computes_the_same(dtype):
    model = small()
    variables = random_variables(model, SIZE, dtype)
    variables = {**variables, "params": condense(variables["params"])}
    images = np.random.default_rng(1).standard_normal((2, SIZE, SIZE, 3)).astype(dtype)
    other, exported = export(model, variables)
    expected = jax.jit(model.apply)(variables, images)[0]
    np.testing.assert_allclose(
        jax.jit(other.apply)(exported, images)[0], expected, rtol=2e-4, atol=1e-5
    )


def test_a_network_that_has_not_lost_all_is_not_exported():
    model = small()
    variables = random_variables(model, SIZE, np.float32)
    with pytest.raises(UserError, match="after all condensing steps"):
        export(model, {**variables, "params": condense(variables["params"], 2)})


# Measured with the authors' converter, whole classifier.
@pytest.mark.parametrize(
    ("name", "classes", "params", "macs"),
    [
        ("condensenet86_k8_16_32", 10, 520_202, 62_381_888),
        ("condensenet86_k8_16_32", 100, 592_292, 62_453_888),
        pytest.param("condensenet182_k12_24_48", 10, 4_221_946, None, marks=pytest.mark.slow),
        pytest.param("condensenet182_k12_24_48", 100, 4_450_996, None, marks=pytest.mark.slow),
    ],
)
def test_counts_of_the_condensed_form(name, classes, params, macs):
    with starting_from_zeros():
        parts = count(create_model(name, classes, condensed=True), (32, 32, 3)).values()
    assert sum(part.params for part in parts) == params
    assert macs in (None, sum(part.macs for part in parts))


def test_training_condenses_at_a_sixth_a_third_and_half_of_its_steps():
    model = small()
    params = random_variables(model, SIZE, np.float32)["params"]
    optimizer = optax.chain(optax.sgd(0.1, momentum=0.9), model.constrain(12))
    state = optimizer.init(params)
    random = np.random.default_rng(2)
    update = jax.jit(optimizer.update)
    shares = []
    for _ in range(8):
        noise = jax.tree.map(
            lambda p: jnp.asarray(random.standard_normal(p.shape), jnp.float32), params
        )
        updates, state = update(noise, state, params)
        params = optax.apply_updates(params, updates)
        shares.append({float((kernel == 0).mean()) for kernel in learned(params)})
    assert shares == [{0.0}, {0.25}, {0.25}, {0.5}, {0.5}, {0.75}, {0.75}, {0.75}]


def test_frozen_kernels_are_not_condensed():
    config = config_lib.resolve({"model": {"name": "condensenet"}})
    config.lr_factors = ((".*stage1.*", 0.0),)
    model = small()
    params = random_variables(model, SIZE, np.float32)["params"]
    optimizer, _ = Classification().make_optimizer(model, config, 2, 1.0, (SIZE, SIZE, 3))
    state = optimizer.init(params)
    updates, _ = jax.jit(optimizer.update)(jax.tree.map(jnp.ones_like, params), state, params)
    found = optax.apply_updates(params, updates)
    jax.tree.map(np.testing.assert_array_equal, found["stage1"], params["stage1"])
    assert {float((kernel == 0).mean()) for kernel in learned(found)} == {0.0, 0.75}


NETWORK = {"name": "condensenet", "args": {"stage_depths": (1, 2), "growth_rate": (4, 8)}}


@pytest.mark.parametrize(
    "averaging",
    [
        {"ema_decay": 0.9},
        {"sam_radius": 0.1},
        {"optimizer": "schedule_free_sgd", "schedule": "constant"},
    ],
    ids=lambda changes: min(changes),
)
def test_averages_of_a_network_that_condenses_are_refused(averaging, data_dir, tmp_path):
    config = tiny_config(data_dir, model=NETWORK, **averaging)
    message = one_line_error(train_and_evaluate, config, tmp_path / "run")
    assert "condensenet keeps its parameters within a set, which averages and SAM leave" in message
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """The workdir of a run whose 12 steps condense after 2, 4 and 6."""
    workdir = tmp_path_factory.mktemp("condensenet")
    schedule = {"log_every_steps": 12, "eval_every_steps": 12, "checkpoint_every_steps": 3}
    train_and_evaluate(tiny_config(data_dir, model=NETWORK, **schedule), workdir)
    return workdir


@pytest.mark.slow
def test_a_run_condenses_and_checkpoints_keep_what_is_lost(trained):
    mesh = replicated(make_mesh())
    before, after = (
        learned(restore_network(trained, step, mesh).variables["params"]) for step in ("9", "12")
    )
    assert len(before) == 3
    for earlier, later in zip(before, after, strict=True):
        assert (earlier == 0).mean() == 0.75
        np.testing.assert_array_equal(later == 0, earlier == 0)
        assert (later != earlier).any()


@pytest.mark.slow
def test_the_condensed_form_of_a_run_classifies_alike(trained):
    restored = restore_network(trained, "latest", replicated(make_mesh()))
    other, exported = export(restored.model, restored.variables)
    right = total = 0
    for batch in evaluation_batches(restored, make_mesh()):
        pixels = np.asarray(batch["image"], np.float32) / 255
        images = (pixels - restored.info.mean[0]) / restored.info.std[0]
        logits = [
            np.asarray(jax.jit(model.apply)(variables, images)[0])
            for model, variables in ((restored.model, restored.variables), (other, exported))
        ]
        np.testing.assert_allclose(logits[1], logits[0], rtol=1e-4, atol=1e-5)
        mask = np.asarray(batch["mask"])
        right += np.sum((logits[1].argmax(-1) == np.asarray(batch["label"])) & mask)
        total += mask.sum()
    assert right / total == pytest.approx(evaluate_checkpoint(trained)["accuracy"], abs=0.003)
