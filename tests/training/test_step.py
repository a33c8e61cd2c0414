"""One step of training, against what it says it computes."""

import time
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aggnets_jax import config as config_lib
from aggnets_jax import create_model
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.tasks.classification import Classification
from aggnets_jax.training.optimizer import make_optimizer
from aggnets_jax.training.state import create_state
from aggnets_jax.training.step import CompiledSteps, ema_rate, make_train_step
from tests.connectivity.test_stage import jit
from tests.patterns import one_line_error
from tests.workdir.states import make_state

RNG = np.random.default_rng(0)


def _preprocess(batch, *, train, seed):
    return batch["image"]


def _batch(size=8):
    return {
        "image": jnp.asarray(RNG.normal(size=(size, 8, 8, 1)), jnp.float32),
        "label": jnp.asarray(RNG.integers(0, 10, size), jnp.int32),
    }


@cache
def _make(**changes):
    config = config_lib.resolve({"schedule": "constant", "lr": 0.1, **changes})
    model = _network()
    optimizer, _ = make_optimizer(config, 100, 10.0)
    state = _create_state(model, optimizer, config)
    return (
        model,
        optimizer,
        state,
        jit(make_train_step(Classification(), model, optimizer, _preprocess, config)),
    )


def _network(**arguments):
    return create_model("sparsenet10_k4", 10, stage_depths=(2, 1), **arguments)


def _create_state(model, optimizer, config):
    return jit(lambda: create_state(model, optimizer, config, (8, 8, 1), Classification.sums))()


@partial(jit, static_argnums=0)
def _loss_and_gradients(model, params, batch_stats, images, labels):
    def loss_fn(params):
        (logits, _), updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, updated["batch_stats"]

    (loss, batch_stats), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params)
    return loss, batch_stats, gradients


def _assert_close(actual, expected):
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=2e-4, atol=1e-6), actual, expected
    )


def test_accumulation_averages_the_gradients_of_the_parts():
    model, optimizer, state, step = _make(accumulation_steps=2)
    batch = _batch()
    after = step(state, batch)

    # The parts are every second example, one after the other through the running averages.
    stats, losses, sums = state.batch_stats, [], jax.tree.map(jnp.zeros_like, state.params)
    for part in (slice(0, None, 2), slice(1, None, 2)):
        loss, stats, gradients = _loss_and_gradients(
            model, state.params, stats, batch["image"][part], batch["label"][part]
        )
        losses.append(loss)
        sums = jax.tree.map(jnp.add, sums, gradients)
    mean = jax.tree.map(lambda g: g / 2, sums)
    updates, _ = optimizer.update(mean, state.opt_state, state.params)
    _assert_close(after.params, optax.apply_updates(state.params, updates))
    _assert_close(after.batch_stats, stats)
    assert float(after.totals["loss"]) == pytest.approx(float(sum(losses)) / 2, rel=1e-5)


@pytest.mark.slow
def test_averages_follow_parameters_and_batch_statistics():
    _, _, state, step = _make(ema_decay=0.75)
    after = step(state, _batch())
    for name in ("params", "batch_stats"):
        expected = jax.tree.map(
            lambda old, new: 0.75 * old + 0.25 * new, getattr(state, name), getattr(after, name)
        )
        _assert_close(after.ema[name], expected)
    assert after.variables is after.ema


def test_averages_warm_up():
    """The first update leaves a tenth of the initialisation, and later ones at most the decay."""
    shares = []
    for updates in (0, 1, 100, 10**6):
        config = config_lib.resolve({"ema_decay": 0.75, "ema_warmup": True})
        shares.append(1 - float(ema_rate(config, jnp.int32(updates))))
    assert shares == pytest.approx([1 / 10, 2 / 11, 0.75, 0.75], rel=1e-5)
    plain = config_lib.resolve({"ema_decay": 0.75})
    assert ema_rate(plain, jnp.int32(0)) == 0.25
    _, _, state, step = _make(ema_decay=0.75, ema_warmup=True)
    after = step(state, _batch())
    expected = jax.tree.map(lambda old, new: 0.1 * old + 0.9 * new, state.params, after.params)
    _assert_close(after.ema["params"], expected)


def test_schedule_free_optimisers_evaluate_their_own_averages():
    """After one step with the rate 0.1, x is where SGD without momentum goes, and y near it."""
    arguments = {"optimizer": "schedule_free_sgd", "weight_decay": 0.0}
    model, _, state, step = _make(**arguments)
    batch = _batch()
    after = step(state, batch)
    inputs = state.params, state.batch_stats, batch["image"], batch["label"]
    _, batch_stats, gradients = _loss_and_gradients(model, *inputs)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, gradients)
    _assert_close(after.variables, {"params": expected, "batch_stats": batch_stats})
    assert after.variables is after.ema


def test_a_warm_up_without_averages_is_refused():
    assert "set config.ema_decay" in one_line_error(config_lib.resolve, {"ema_warmup": True})


@pytest.mark.slow
def test_totals_count_until_they_are_reset():
    model, _, state, step = _make()
    batch = _batch()
    after = step(step(state, batch), batch)
    assert (int(after.step), int(after.totals["steps"])) == (2, 2)
    loss, _, _ = _loss_and_gradients(
        model, state.params, state.batch_stats, batch["image"], batch["label"]
    )
    assert float(step(state, batch).totals["loss"]) == pytest.approx(float(loss), rel=1e-5)
    assert int(after.totals["nonfinite_steps"]) == 0


def test_the_first_step_that_is_not_finite_is_remembered():
    _, _, state, step = _make()
    good, bad = _batch(), _batch()
    bad["image"] = bad["image"].at[0, 0, 0, 0].set(jnp.nan)
    state = step(step(step(state, good), bad), good)
    assert int(state.totals["first_nonfinite"]) == 2
    assert int(state.totals["nonfinite_steps"]) == 2


@pytest.mark.slow
def test_dropout_differs_between_steps_and_follows_from_the_seed():
    config = config_lib.resolve({"schedule": "constant", "lr": 0.0})
    model = _network(dropout=0.5)
    optimizer, _ = make_optimizer(config, 100, 10.0)
    state = _create_state(model, optimizer, config)
    step = jit(make_train_step(Classification(), model, optimizer, _preprocess, config))
    batch = _batch()
    first = step(state, batch)
    again = step(state, batch)
    second = step(state.replace(step=state.step + 1), batch)
    assert float(first.totals["loss"]) == float(again.totals["loss"])
    assert float(first.totals["loss"]) != float(second.totals["loss"])


@pytest.mark.slow
def test_bfloat16_computes_low_and_keeps_parameters_high():
    config = config_lib.resolve({})
    model = _network(dtype=jnp.bfloat16)
    optimizer, _ = make_optimizer(config, 100, 10.0)
    state = _create_state(model, optimizer, config)
    state = jit(make_train_step(Classification(), model, optimizer, _preprocess, config))(
        state, _batch()
    )
    leaves = jax.tree.leaves((state.params, state.batch_stats, state.opt_state[2]))
    assert {leaf.dtype for leaf in leaves} <= {jnp.dtype("float32"), jnp.dtype("int32")}
    _, endpoints = jit(model.apply)(state.variables, _batch()["image"])
    assert endpoints["stage1"].dtype == jnp.bfloat16
    assert endpoints["logits"].dtype == jnp.float32


def _after(changes, *lrs):
    """A state, and what it is after steps of which some have an infinite gradient."""
    _, _, state, step = _make(**changes)
    before = jax.tree.map(np.asarray, state)
    for bad in lrs:
        batch = _batch()
        if bad:
            batch["image"] = batch["image"].at[0, 0, 0, 0].set(bad)
        state = step(state, batch)
    return before, state


def test_a_step_that_is_not_finite_is_undone_if_that_is_allowed():
    before, state = _after({"skip_nonfinite_steps": 3, "ema_decay": 0.9}, np.nan, np.inf)
    assert optax.tree_utils.tree_get(state.opt_state, "count") == 2  # the schedule goes on
    kept = ("params", "batch_stats", "ema")
    for name in kept:
        jax.tree.map(np.testing.assert_array_equal, getattr(state, name), getattr(before, name))
    momentum = optax.tree_utils.tree_get(state.opt_state, "trace")
    assert all(np.all(x == 0) for x in jax.tree.leaves(momentum))
    totals = jax.tree.map(int, state.totals)
    assert (int(state.step), totals["steps"], totals["nonfinite_steps"]) == (2, 2, 2)
    assert (totals["first_nonfinite"], totals["loss"], totals["correct"]) == (1, 0, 0)


def test_without_leave_it_is_not_undone():
    _, state = _after({}, np.nan)
    assert not np.isfinite(jax.tree.leaves(state.params)[0]).all()


@pytest.mark.slow
def test_a_run_of_finite_steps_is_the_same_where_others_may_be_undone():
    RNG.bit_generator.state = (start := np.random.default_rng(5)).bit_generator.state
    _, plain = _after({}, 0, 0)
    RNG.bit_generator.state = start.bit_generator.state
    _, allowed = _after({"skip_nonfinite_steps": 3}, 0, 0)
    _assert_close(allowed.params, plain.params)


def test_the_host_is_one_call_ahead_at_most():
    """What the devices have in their queue, a run that is to stop must finish."""
    finished = []

    def slow(state, feed, count):
        step = state.step + count
        jax.debug.callback(lambda step: (time.sleep(0.05), finished.append(int(step))), step)
        return state.replace(step=step)

    mesh = mesh_lib.make_mesh()
    state = jax.device_put(make_state(0), mesh_lib.replicated(mesh))
    steps = CompiledSteps(slow, state, jnp.zeros(1), mesh)
    for call in range(1, 5):
        state = steps(state, jnp.zeros(1), 1)
        assert len(finished) >= call - 1
    jax.block_until_ready(state)
    jax.effects_barrier()
    assert finished == [1, 2, 3, 4]
