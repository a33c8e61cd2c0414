"""SGD and schedules against their formulas."""

import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aggnets_jax import config as config_lib
from aggnets_jax.errors import UserError
from aggnets_jax.optimizer import make_optimizer
from aggnets_jax.schedules import SCHEDULES, make_schedule

RNG = np.random.default_rng(0)


def _steps_of_pytorch(params, gradients, lr, config):
    """torch.optim.SGD, as its documentation states it, after clip_grad_norm_."""
    velocity = {name: np.zeros_like(p) for name, p in params.items()}
    for gradient in gradients:
        norm = math.sqrt(sum((g**2).sum() for g in gradient.values()))
        limit = config.grad_clip_norm
        clip = min(1.0, limit / norm) if limit else 1.0
        for name, p in params.items():
            decays = config.weight_decay_on == "all" or p.ndim > 1
            g = clip * gradient[name] + (config.weight_decay * p if decays else 0)
            velocity[name] = config.momentum * velocity[name] + g
            g = g + config.momentum * velocity[name] if config.nesterov else velocity[name]
            params = {**params, name: p - lr * g}
    return params


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"nesterov": False},
        {"weight_decay_on": "kernels", "weight_decay": 0.1},
        {"grad_clip_norm": 0.5, "weight_decay": 0.1},
        {"momentum": 0.0, "nesterov": False},
    ],
)
def test_updates_are_those_of_pytorch(changes):
    config = config_lib.resolve({"schedule": "constant", "lr": 0.1, **changes})
    optimizer, _ = make_optimizer(config)
    shapes = {"kernel": (3, 4), "bias": (4,)}
    start = {name: RNG.normal(size=shape) for name, shape in shapes.items()}
    gradients = [{name: RNG.normal(size=shape) for name, shape in shapes.items()} for _ in range(4)]
    params = {name: jnp.asarray(p, jnp.float32) for name, p in start.items()}
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(
            {name: jnp.asarray(g, jnp.float32) for name, g in gradient.items()}, state, params
        )
        params = optax.apply_updates(params, updates)
    expected = _steps_of_pytorch(start, gradients, 0.1, config)
    for name in shapes:
        np.testing.assert_allclose(params[name], expected[name], rtol=2e-5, atol=1e-6)


def test_step_divides_at_half_and_three_quarters():
    schedule = make_schedule("step", 0.1, 300)
    values = [float(schedule(s)) for s in (0, 149, 150, 224, 225, 299)]
    assert values == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


@pytest.mark.parametrize("step", [0, 1, 57, 199])
def test_cosine(step):
    schedule = make_schedule("cosine", 0.2, 200)
    assert float(schedule(step)) == pytest.approx(
        0.1 * (1 + math.cos(math.pi * step / 200)), rel=1e-5, abs=1e-8
    )


def test_cosine_after_a_linear_rise_from_zero():
    schedule = make_schedule("cosine", 0.2, 110, warmup_steps=10, end_factor=0.1)
    assert float(schedule(0)) == 0
    assert float(schedule(5)) == pytest.approx(0.1)
    assert float(schedule(10)) == pytest.approx(0.2)
    assert float(schedule(60)) == pytest.approx(0.11)
    assert float(schedule(110)) == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("step", "start", "length"),
    [(0, 0, 10), (9, 0, 10), (10, 10, 20), (29, 10, 20), (30, 30, 40), (69, 30, 40), (70, 70, 80)],
)
def test_sgdr_restarts_with_cycles_of_double_length(step, start, length):
    schedule = make_schedule("sgdr", 0.1, 150, first_cycle_steps=10)
    expected = 0.05 * (1 + math.cos(math.pi * (step - start) / length))
    assert float(schedule(step)) == pytest.approx(expected, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("cosine", {"warmup_steps": 100}, "from 0 to 99"),
        ("cosine", {"warmup": 1}, "nearest: warmup_steps"),
        ("step", {"boundaries": (0.5, 0.2)}, "rising fractions"),
        ("step", {"boundaries": (150,)}, "rising fractions"),
        ("sgdr", {}, "needs the argument 'first_cycle_steps'"),
        ("sgdr", {"first_cycle_steps": 0}, "from 1 to 100"),
        ("sgdr", {"first_cycle_steps": True}, "must be int"),
        ("sgdr", {"first_cycle_steps": 10, "cycle_multiplier": float("inf")}, "from 1 to 100"),
        ("cosine", {"warmup_steps": 1.5}, "must be int"),
        ("cosine", {"end_factor": float("nan")}, "from 0 to 1"),
        ("step", {"boundaries": 0.5}, "must be"),
        ("step", {"boundaries": ("a",)}, "must be"),
        ("step", {"factor": -3.0}, "from 0 to 1"),
        ("step", {"lr": 1.0}, "unknown argument"),
        ("cos", {}, "unknown schedule 'cos'"),
    ],
)
def test_what_schedules_refuse(name, arguments, message):
    with pytest.raises(UserError) as error:
        make_schedule(name, 0.1, 100, **arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_every_schedule_is_tested_here():
    assert set(SCHEDULES) == {"constant", "step", "cosine", "sgdr"}
