"""SGD against its formulas, and learning rates by parameter."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aggnets_jax import config as config_lib
from aggnets_jax.training.optimizer import make_optimizer
from tests.patterns import one_line_error

RNG = np.random.default_rng(0)
SHAPES = {
    "stem_conv": {"kernel": (3, 4)},
    "stage1": {"norm": {"scale": (4,), "bias": (4,)}, "conv": {"kernel": (4, 5)}},
    "classifier": {"kernel": (5, 2), "bias": (2,)},
}


def random_tree():
    return jax.tree.map(
        lambda shape: RNG.normal(size=shape).astype(np.float32),
        SHAPES,
        is_leaf=lambda shape: isinstance(shape, tuple),
    )


def leaves_by_path(tree):
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def steps_of_pytorch(params, gradients, rates, config, factors):
    """torch.optim.SGD with a group for each parameter, as its documentation states it.

    After clip_grad_norm_; the parameters of factor 0 are not handed to either.
    """
    params = {path: p.astype(np.float64) for path, p in leaves_by_path(params).items()}
    trained = [path for path in params if factors.get(path, 1)]
    velocity = {path: np.zeros_like(params[path]) for path in trained}
    for gradient, lr in zip(map(leaves_by_path, gradients), rates, strict=True):
        norm = math.sqrt(sum((gradient[path] ** 2).sum() for path in trained))
        limit = config.grad_clip_norm
        clip = min(1.0, limit / norm) if limit else 1.0
        for path in trained:
            p = params[path]
            decays = config.weight_decay_on == "all" or p.ndim > 1
            g = clip * gradient[path] + (config.weight_decay * p if decays else 0)
            velocity[path] = config.momentum * velocity[path] + g
            g = g + config.momentum * velocity[path] if config.nesterov else velocity[path]
            params[path] = p - lr * factors.get(path, 1) * g
    return params


def updated(config, params, gradients):
    """Parameters after the steps, and the state of the optimiser."""
    optimizer, _ = make_optimizer(config, len(gradients), 2.5)
    state = jax.jit(optimizer.init)(params)

    @jax.jit
    def step(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    for gradient in gradients:
        params, state = step(params, state, gradient)
    return params, state


@pytest.mark.parametrize(
    ("changes", "factors"),
    [
        ({}, {}),
        ({"nesterov": False}, {}),
        ({"weight_decay_on": "kernels", "weight_decay": 0.1}, {}),
        ({"grad_clip_norm": 0.5, "weight_decay": 0.1}, {}),
        ({"momentum": 0.0, "nesterov": False}, {}),
        ({"lr_factors": ((".*", 1.0),)}, {}),
        (
            # The first that matches counts.
            {"lr_factors": (("classifier/bias", 3), ("classifier/.*", 0.5), ("stem.*|.*/bias", 0))},
            {
                "classifier/bias": 3,
                "classifier/kernel": 0.5,
                "stem_conv/kernel": 0,
                "stage1/norm/bias": 0,
            },
        ),
        (
            {
                "lr_factors": (("stage1/.*", 0.0), ("stem_conv/kernel", 0.1)),
                "grad_clip_norm": 0.5,
                "weight_decay": 0.1,
                "weight_decay_on": "kernels",
            },
            {
                "stage1/norm/scale": 0,
                "stage1/norm/bias": 0,
                "stage1/conv/kernel": 0,
                "stem_conv/kernel": 0.1,
            },
        ),
    ],
)
def test_updates_are_those_of_pytorch(changes, factors):
    config = config_lib.resolve({"schedule": "step", "lr": 0.1, **changes})
    start, gradients = random_tree(), [random_tree() for _ in range(4)]
    params, _ = updated(config, start, gradients)
    expected = steps_of_pytorch(start, gradients, [0.1, 0.1, 0.01, 0.001], config, factors)
    for path, p in leaves_by_path(params).items():
        np.testing.assert_allclose(p, expected[path], rtol=2e-5, atol=1e-6, err_msg=path)


def test_frozen_parameters_keep_every_bit_and_have_no_momentum():
    config = config_lib.resolve(
        {"lr_factors": (("stage1/.*", 0),), "weight_decay": 0.1, "schedule": "constant"}
    )
    start, gradients = random_tree(), [random_tree() for _ in range(3)]
    start["stage1"]["norm"]["bias"] = np.array([0.0, -0.0, 1e-45, 3e38], np.float32)
    gradients[1]["stage1"]["conv"]["kernel"][0, 0] = np.nan
    params, state = updated(config, start, gradients)
    before = leaves_by_path(start)
    for path, p in leaves_by_path(params).items():
        same = np.asarray(p).tobytes() == before[path].tobytes()
        assert same == path.startswith("stage1/"), path
        assert np.isfinite(p).all()
    trained = sum(
        p.size for path, p in leaves_by_path(params).items() if not path.startswith("stage1/")
    )
    assert sum(x.size for x in jax.tree.leaves(state) if x.ndim) == trained


def test_the_learning_rate_grows_with_the_batch():
    changes = {"lr": 0.1, "schedule": "sgdr", "schedule_args": {"first_cycle_epochs": 2}}
    for lr_batch_size, highest in ((0, 0.1), (256, 0.4), (1024, 0.1), (2048, 0.05)):
        config = config_lib.resolve({**changes, "batch_size": 1024, "lr_batch_size": lr_batch_size})
        _, schedule = make_optimizer(config, 60, 5.0)
        lr = [float(schedule(step)) for step in range(60)]
        assert max(lr) == lr[0] == lr[10] == lr[30] == pytest.approx(highest)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (
            (("stem", 0.0),),
            "unknown pattern of parameters in config.lr_factors 'stem'; allowed: class",
        ),
        ((("stage1/norm/scales", 0.0),), "nearest: stage1/norm/scale"),
        ((("stem_conv.*", 0.0), ("", 1.0)), "unknown pattern"),
        ((("(", 0.0),), "'(' is no regular expression"),
        ((("stem.*", -0.5),), "must be at least 0 and finite, got -0.5"),
        ((("stem.*", float("nan")),), "must be at least 0 and finite"),
        ((("stem.*", float("inf")),), "must be at least 0 and finite"),
        ((("stem.*", True),), "must be pairs"),
        ((("stem.*", "0"),), "must be pairs"),
        ((("stem.*",),), "must be pairs"),
        (("stem.*", 0.0), "must be pairs of a pattern and a factor, such as"),
        (((0.0, "stem.*"),), "must be pairs"),
    ],
)
def test_factors_that_are_refused(factors, message):
    config = config_lib.resolve({"lr_factors": factors})
    params = jax.tree.map(jnp.asarray, random_tree())
    assert message in one_line_error(updated, config, params, [params])


def test_factors_on_the_command_line():
    default = str(config_lib.configs_folder() / "default.py")
    config = config_lib.load(default, ["lr_factors=(('stem.*', 0), ('.*/bias', 2))"])
    assert config.lr_factors == (("stem.*", 0), (".*/bias", 2))
    # As JSON of a checkpoint has them, in their order.
    again = config_lib.resolve(config_lib.to_json(config))
    assert [list(pair) for pair in again.lr_factors] == [["stem.*", 0], [".*/bias", 2]]
    message = one_line_error(config_lib.load, default, ["lr_factors={'stem.*': 0}"])
    assert "config.lr_factors must be of type tuple" in message
