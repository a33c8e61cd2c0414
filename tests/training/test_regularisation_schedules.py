"""Strengths of regularisation against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax.config import default_config
from aggnets_jax.training.regularisation_schedules import StrengthState, make_strength
from aggnets_jax.training.schedules import make_schedule
from tests.patterns import one_line_error


def strength(name, highest, total_steps=10_000, steps_per_epoch=10.0, **arguments):
    config = default_config()
    config.strength, config.strength_schedule = highest, name
    config.strength_args = arguments
    return make_strength(config, total_steps, steps_per_epoch)


def values(schedule, losses):
    """Strengths in steps 0, 1, ... whose losses are given, in one compiled program."""

    def step(carry, loss):
        state, count = carry
        value = schedule.value(state, count)
        return (schedule.update(state, loss), count + 1), value

    run = jax.jit(lambda losses: jax.lax.scan(step, (schedule.init(), 0), losses)[1])
    result = run(jnp.asarray(losses, jnp.float32))
    assert result.dtype == jnp.float32
    return np.asarray(result)


def test_no_strength_is_none():
    assert make_strength(default_config(), 100, 10.0) is None
    assert strength("dynamic", 0.0) is None


def test_constant():
    np.testing.assert_array_equal(values(strength("constant", 0.3), np.ones(5)), np.float32(0.3))


@pytest.mark.parametrize("every", ["epoch", "step"])
@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_sawtooth_rises_in_each_cycle(every, shape):
    epochs, per_epoch = 10 + 20 + 40 + 5, 4
    schedule = strength(
        "sawtooth",
        0.1,
        epochs * per_epoch,
        per_epoch,
        first_cycle_epochs=10,
        every=every,
        shape=shape,
    )
    expected = []
    for length in (10, 20, 40, 80):
        for step in range(length * per_epoch):
            t = step / per_epoch / length if every == "step" else step // per_epoch / length
            rise = t if shape == "linear" else abs(0.5 * (1 + np.cos(np.pi * t)) - 1)
            expected.append(0.1 * rise)
    got = values(schedule, np.ones(epochs * per_epoch))
    np.testing.assert_allclose(got, expected[: len(got)], atol=1e-7)
    starts = np.array([0, 10, 30, 70]) * per_epoch
    assert (got[starts] == 0).all()
    assert (got[starts[1:] - 1] > 0.08).all()


def test_sawtooth_mirrors_the_learning_rate_of_the_recipe():
    # 50,000 images in batches of 128, two runs of 630 epochs one after the other.
    per_epoch = 50_000 / 128
    total = round(1260 * per_epoch)
    cycles = {"first_cycle_epochs": 10, "cycle_multiplier": 2, "every": "epoch", "repeats": 2}
    lr = make_schedule("sgdr", 0.1, total, per_epoch, **cycles)
    drop = strength("sawtooth", 0.1, total, per_epoch, **cycles)
    steps = jnp.arange(0, total, 97)
    both = jax.jit(jax.vmap(lambda step: (lr(step), drop.value(drop.init(), step))))(steps)
    np.testing.assert_allclose(np.add(*map(np.asarray, both)), 0.1, rtol=1e-5)


def test_dynamic_follows_the_smoothed_loss():
    losses = 2 + np.random.default_rng(0).standard_normal(400).cumsum() / 10
    arguments = {"initial": 0.05, "increment": 0.02, "decrement": 0.03, "smoothing": 0.7}
    value, smoothed, expected = 0.05, None, []
    for loss in losses:
        expected.append(value)
        if smoothed is None:
            smoothed = loss
            continue
        after = 0.7 * smoothed + 0.3 * loss
        value = min(max(value + (0.02 if after < smoothed else -0.03), 0.0), 0.2)
        smoothed = after
    got = values(strength("dynamic", 0.2, **arguments), losses)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert got.max() == np.float32(0.2)
    assert got.min() == 0


def test_dynamic_grows_while_the_loss_falls_and_shrinks_while_it_rises():
    got = values(strength("dynamic", 1.0), np.r_[np.linspace(3, 1, 200), np.linspace(1, 3, 200)])
    assert (np.diff(got[1:200]) > 0).all()
    # The average goes on falling a little after the loss has turned.
    assert (np.diff(got[220:]) <= 0).all()
    assert got[199] == pytest.approx(0.198, abs=1e-5)


def test_dynamic_gaussian_follows_the_differences_smoothed_by_a_gaussian():
    losses = 2 + np.random.default_rng(0).standard_normal(400).cumsum() / 10
    arguments = {"initial": 0.05, "increment": 0.02, "decrement": 0.03, "window": 10, "width": 0.4}
    weights = np.exp(-0.5 * ((np.arange(11) - 5) / (0.4 * 5)) ** 2)
    differences = np.r_[np.zeros(11), np.diff(losses)]
    value, expected = 0.05, [0.05, 0.05]
    for step in range(1, 399):
        newest_first = differences[step : step + 11][::-1]
        change = 0.02 if weights @ newest_first < 0 else -0.03
        value = min(max(value + change, 0.0), 0.2)
        expected.append(value)
    got = values(strength("dynamic_gaussian", 0.2, **arguments), losses)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert got.max() == np.float32(0.2)
    assert got.min() == 0


def test_dynamic_gaussian_does_not_follow_a_single_loss():
    # One loss that jumps up and back changes the smoothed one by little.
    losses = np.linspace(3, 2, 100)
    losses[60] += 0.03
    got = values(strength("dynamic_gaussian", 1.0, window=20), losses)
    assert (np.diff(got[1:]) > 0).all()
    assert (np.diff(values(strength("dynamic_gaussian", 1.0, window=1), losses)) < 0).any()


def test_seeds_under_vmap_are_those_alone():
    schedule = strength("dynamic", 0.5, smoothing=0.5)
    losses = np.random.default_rng(1).uniform(1, 2, (3, 50))
    together = jax.vmap(
        lambda losses: jax.lax.scan(
            lambda state, loss: (schedule.update(state, loss), schedule.value(state, 0)),
            schedule.init(),
            losses,
        )[1]
    )(jnp.asarray(losses, jnp.float32))
    alone = [values(schedule, seed) for seed in losses]
    np.testing.assert_array_equal(together, alone)
    assert len({*map(bytes, alone)}) == 3


def test_state_is_two_numbers_in_float32():
    for name, arguments in (
        ("constant", {}),
        ("sawtooth", {"first_cycle_steps": 20}),
        ("dynamic", {}),
    ):
        state = strength(name, 0.1, **arguments).init()
        assert isinstance(state, StrengthState)
        assert [(x.shape, x.dtype) for x in jax.tree.leaves(state)] == [((), jnp.float32)] * 2


@pytest.mark.parametrize(
    ("name", "highest", "arguments", "message"),
    [
        ("sawtoth", 0.1, {}, "sawtooth"),
        ("constant", 0.1, {"step": 0.1}, "argument"),
        ("sawtooth", 0.1, {}, "first_cycle_steps"),
        ("sawtooth", 0.1, {"first_cycle_epoch": 1}, "first_cycle_steps"),
        ("sawtooth", 0.1, {"first_cycle_epochs": 1, "shape": "cosin"}, "cosine"),
        ("sawtooth", 0.1, {"first_cycle_epochs": 1.5}, "whole number of epochs"),
        ("dynamic", 0.1, {"incremnt": 0.1}, "increment"),
        ("dynamic", 0.1, {"initial": 0.2}, "initial must be a number from 0 to 0.1"),
        ("dynamic", 0.1, {"decrement": -1}, "decrement must be a number at least 0"),
        ("dynamic", 0.1, {"smoothing": 1.0}, "smoothing must be"),
        ("dynamic_gaussian", 0.1, {"window": 0}, "window must be"),
        ("dynamic_gaussian", 0.1, {"initial": 0.2}, "initial must be a number from 0 to 0.1"),
        # Also where nothing is regularised.
        ("dynamic", 0.0, {"smooth": 0.5}, "smoothing"),
    ],
)
def test_what_is_not_allowed(name, highest, arguments, message):
    assert message in one_line_error(strength, name, highest, **arguments)
