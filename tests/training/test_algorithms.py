"""Optimisers against their formulas, PyTorch, and themselves with layers in a loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import config as config_lib
from aggnets_jax.training.algorithms import averaged
from aggnets_jax.training.optimizer import make_optimizer
from tests.marks import slow_but
from tests.patterns import one_line_error
from tests.training import formulas
from tests.training.test_optimizer import leaves_by_path, random_tree, updated

STEPS = 10
RATES = {"lr": 0.01, "schedule": "step", "weight_decay_on": "kernels", "weight_decay": 0.1}
RISING = {"schedule": "constant", "schedule_args": {"warmup_steps": 4}}


def rate(step):
    return 0.01 * 0.1 ** ((step >= 5) + (step >= 8))


def rising_rate(step):
    return 0.01 * min(1, step / 4)


def follow(formula, start, gradients, rates):
    """Return the values of a formula after each step."""
    next(formula)
    return [formula.send(given) for given in zip(gradients, rates, strict=True)]


def expected(of_parameter, start, gradients, rates=None):
    """Return the values after each step, by path, from a formula for each parameter."""
    rates = rates or [rate(step) for step in range(STEPS)]
    gradients = [leaves_by_path(gradient) for gradient in gradients]
    return {
        path: follow(
            of_parameter(path, p.astype(np.float64), 0.1 if p.ndim > 1 else 0.0),
            p,
            [gradient[path].astype(np.float64) for gradient in gradients],
            rates,
        )
        for path, p in leaves_by_path(start).items()
    }


def of_muon(path, p, decay):
    kernel = p.ndim > 1 and not path.startswith("classifier")
    return formulas.muon(p, decay) if kernel else formulas.adamw(p, decay, nesterov=True)


FORMULAS = {
    "adamw": ({}, lambda path, p, decay: formulas.adamw(p, decay)),
    "nadamw": (
        {"nesterov": True},
        lambda path, p, decay: formulas.adamw(p, decay, nesterov=True),
    ),
    "lamb": ({}, lambda path, p, decay: formulas.lamb(p, decay)),
    "lamb of timm": (
        {"always_adapt": False},
        lambda path, p, decay: formulas.lamb(p, decay, adapt=p.ndim > 1),
    ),
    "lars": ({}, lambda path, p, decay: formulas.lars(p, decay)),
    "lion": ({"b2": 0.98}, lambda path, p, decay: formulas.lion(p, decay, b2=0.98)),
    "rmsprop": (
        {"initial_scale": 1.0, "eps": 0.001},
        lambda path, p, decay: formulas.rmsprop(p, decay, start=1.0, eps=0.001),
    ),
    "adafactor": ({}, lambda path, p, decay: formulas.adafactor(p, decay)),
    "adafactor, factored": (
        {"min_dim_size_to_factor": 2},
        lambda path, p, decay: formulas.adafactor(p, decay, factored=p.ndim > 1),
    ),
    "muon": ({}, of_muon),
}


@pytest.mark.parametrize(
    "name", slow_but(FORMULAS, ("adamw", "lamb of timm", "adafactor, factored", "muon"))
)
def test_updates_are_those_of_the_formula(name):
    arguments, formula = FORMULAS[name]
    algorithm = "adamw" if name == "nadamw" else name.split()[0].rstrip(",")
    config = config_lib.resolve({"optimizer": algorithm, "optimizer_args": arguments, **RATES})
    start, gradients = random_tree(), [random_tree() for _ in range(STEPS)]
    after = expected(formula, start, gradients)
    optimizer, _ = make_optimizer(config, STEPS, 2.5)
    update = jax.jit(optimizer.update)
    params, state = start, optimizer.init(start)
    for step, gradient in enumerate(gradients):
        updates, state = update(gradient, state, params)
        params = jax.tree.map(np.add, params, updates)
        if step in (0, STEPS - 1):
            for path, p in leaves_by_path(params).items():
                np.testing.assert_allclose(p, after[path][step], rtol=2e-4, atol=2e-5, err_msg=path)


@pytest.mark.parametrize(
    "name", slow_but(["schedule_free_sgd", "schedule_free_adamw"], ["schedule_free_adamw"])
)
def test_schedule_free_optimisers_train_y_and_evaluate_x(name):
    config = config_lib.resolve({"optimizer": name, **RATES, **RISING})
    direction = {
        "schedule_free_sgd": formulas.identity,
        "schedule_free_adamw": functools.partial(formulas.adam_direction, 0.0, 0.999, 1e-8),
    }[name]
    start, gradients = random_tree(), [random_tree() for _ in range(STEPS)]
    rates = [(rising_rate(step), rising_rate(step + 1)) for step in range(STEPS)]
    after = expected(
        lambda path, p, decay: formulas.schedule_free(direction(), p, decay),
        start,
        gradients,
        rates,
    )
    params, state = updated(config, start, gradients)
    evaluated = leaves_by_path(averaged(state, params))
    for path, p in leaves_by_path(params).items():
        y, x = after[path][-1]
        np.testing.assert_allclose(p, y, rtol=1e-4, atol=1e-5, err_msg=path)
        np.testing.assert_allclose(evaluated[path], x, rtol=1e-4, atol=1e-5, err_msg=path)


def test_schedule_free_optimisers_freeze_and_scale():
    """A factor makes the learning rate of a parameter, also in its averages."""
    factors = (("stage1/.*", 0), ("classifier/.*", 0.5))
    changes = {"optimizer": "schedule_free_sgd", "schedule": "constant", "weight_decay": 0.0}
    start, gradients = random_tree(), [random_tree() for _ in range(3)]
    config = config_lib.resolve({**changes, "lr": 0.1, "lr_factors": factors})
    params, state = updated(config, start, gradients)
    slower, slow_state = updated(config_lib.resolve({**changes, "lr": 0.05}), start, gradients)
    for trained, half in (
        (params, slower),
        (averaged(state, params), averaged(slow_state, slower)),
    ):
        assert (
            trained["stage1"]["conv"]["kernel"].tobytes()
            == start["stage1"]["conv"]["kernel"].tobytes()
        )
        np.testing.assert_allclose(trained["classifier"]["bias"], half["classifier"]["bias"], 1e-5)
        assert not np.allclose(trained["stem_conv"]["kernel"], half["stem_conv"]["kernel"])


ALL = ("sgd", "adamw", "lamb", "lars", "lion", "rmsprop", "muon", "schedule_free_adamw")


@pytest.mark.parametrize("name", slow_but(ALL, ("lamb", "muon")))
def test_layers_in_a_loop_are_optimised_apart(name):
    def tree():
        values = {"scale": RNG.normal(size=3), "kernel": RNG.normal(size=(3, 3, 4, 5))}
        return jax.tree.map(lambda x: x.astype(np.float32), values)

    config = config_lib.resolve({"optimizer": name, **RATES, "grad_clip_norm": 0.5})
    apart = [{"stage1": {"layer2": tree(), "layer3": tree()}} for _ in range(4)]
    stacked = [{"stage1": {"layers2_3": stack(*each["stage1"].values())}} for each in apart]
    one, _ = updated(config, apart[0], apart[1:])
    other, _ = updated(config, stacked[0], stacked[1:])
    expected = stack(one["stage1"]["layer2"], one["stage1"]["layer3"])
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=1e-5),
        other["stage1"]["layers2_3"],
        expected,
    )


@pytest.mark.parametrize("rms", [None, 0.2])
def test_muon_scales_narrower_layers_of_a_loop_by_their_own_size(rms):
    config = config_lib.resolve({"optimizer": "muon", "optimizer_args": {"consistent_rms": rms}})

    def padded(kernel):
        return np.pad(kernel, [(0, 0), (0, 0), (0, 4 - kernel.shape[2]), (0, 0)])

    def trees():
        kernels = [RNG.normal(size=(1, 1, rows, 3)).astype(np.float32) for rows in (2, 4)]
        apart = {f"layer{i}": {"kernel": kernel} for i, kernel in enumerate(kernels, 2)}
        return apart, {"layers2_3": {"kernel": np.stack([*map(padded, kernels)])}}

    start, looped_start = trees()
    gradient, looped_gradient = trees()
    apart, _ = updated(config, start, [gradient])
    looped, _ = updated(config, looped_start, [looped_gradient])
    expected = np.stack([padded(apart[f"layer{i}"]["kernel"]) for i in (2, 3)])
    np.testing.assert_allclose(looped["layers2_3"]["kernel"], expected, rtol=1e-4, atol=1e-6)


def test_muon_trains_kernels_of_a_loop_that_start_at_zero():
    config = config_lib.resolve({"optimizer": "muon", "optimizer_args": {"consistent_rms": 0.2}})
    zeros, gradient = np.zeros((2, 1, 1, 4, 3), np.float32), RNG.normal(size=(2, 1, 1, 4, 3))
    apart, looped = (
        updated(config, start, [change])[0]
        for start, change in [
            ({"layer2": {"kernel": zeros[0]}}, {"layer2": {"kernel": gradient[0]}}),
            ({"layers2_3": {"kernel": zeros}}, {"layers2_3": {"kernel": gradient}}),
        ]
    )
    kernel = looped["layers2_3"]["kernel"][0]
    assert np.abs(kernel).max() > 0
    np.testing.assert_allclose(kernel, apart["layer2"]["kernel"], rtol=1e-4, atol=1e-6)


def test_the_weight_decay_of_muons_adam_has_its_learning_rate():
    changes = {"optimizer": "muon", "lr": 1.0, "weight_decay": 0.01, "schedule": "constant"}
    config = config_lib.resolve({**changes, "optimizer_args": {"adam_lr_factor": 0.1}})
    kernels = {name: {"kernel": jnp.ones((2, 3))} for name in ("classifier", "head")}
    found, _ = updated(config, kernels, [jax.tree.map(jnp.zeros_like, kernels)])
    np.testing.assert_allclose(found["classifier"]["kernel"], 0.999, rtol=1e-6)
    np.testing.assert_allclose(found["head"]["kernel"], 0.99, rtol=1e-6)


RNG = np.random.default_rng(1)


def stack(*trees):
    return jax.tree.map(lambda *parts: np.stack(parts), *trees)


def test_adafactor_refuses_layers_in_a_loop():
    config = config_lib.resolve({"optimizer": "adafactor"})
    params = {"stage1": {"layers2_3": {"kernel": jnp.ones((2, 3, 4))}}}
    assert "set config.model.scan=False" in one_line_error(updated, config, params, [params])


@pytest.mark.parametrize("name", slow_but(["adamw", "lamb", "muon", "adafactor"], ["adamw"]))
def test_factors_and_clipping_apply_to_all(name):
    """Frozen parameters keep every bit, and gradients are clipped by the norm of the others."""
    factors = (("stage1/.*", 0), ("classifier/.*", 0.5))
    changes = {"optimizer": name, "schedule": "constant", "lr": 0.01}
    start, gradient = random_tree(), random_tree()
    plain, _ = updated(config_lib.resolve({**changes}), start, [gradient])
    config = config_lib.resolve({**changes, "lr_factors": factors, "grad_clip_norm": 1e3})
    params, _ = updated(config, start, [gradient])
    assert params["stage1"]["norm"]["bias"].tobytes() == start["stage1"]["norm"]["bias"].tobytes()
    moved, half = (
        each["classifier"]["kernel"] - start["classifier"]["kernel"] for each in (plain, params)
    )
    np.testing.assert_allclose(half, 0.5 * moved, rtol=1e-3, atol=1e-6)
    huge = jax.tree.map(lambda g: 1e4 * g, gradient)
    huge["stage1"] = jax.tree.map(lambda g: 1e30 * g, huge["stage1"])
    clipped = config_lib.resolve({**changes, "lr_factors": factors, "grad_clip_norm": 1e-3})
    first, _ = updated(clipped, start, [huge])
    second, _ = updated(clipped, start, [jax.tree.map(lambda g: 10 * g, huge)])
    np.testing.assert_allclose(
        first["classifier"]["kernel"], second["classifier"]["kernel"], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adam"}, "unknown optimizer 'adam'; nearest: adamw"),
        ({"optimizer": "adamw", "optimizer_args": {"beta": 0.9}}, "has no argument 'beta'"),
        ({"optimizer": "lion", "optimizer_args": {"b1": 1.0}}, "b1 of the optimiser must be in"),
        ({"optimizer": "sgd", "optimizer_args": {"momentum": 0.9}}, "it has: none"),
        ({"optimizer": "muon", "optimizer_args": {"adam_on": "("}}, "is no regular expression"),
        ({"optimizer": "schedule_free_sgd", "optimizer_args": {"b1": 0.0}}, "must be above 0"),
        ({"optimizer": "adafactor", "optimizer_args": {"decay_rate": "x"}}, "must be float"),
        ({"optimizer": "adafactor", "optimizer_args": {"clipping_threshold": 0.0}}, "at least"),
        ({"optimizer": "schedule_free_sgd", "ema_decay": 0.9}, "set ema_decay=0"),
        *(
            ({"optimizer": name, "optimizer_args": {"eps": -1.0}}, "eps must be a number")
            for name in ("adamw", "lamb", "rmsprop")
        ),
    ],
)
def test_what_is_refused(changes, message):
    assert message in one_line_error(make_optimizer, config_lib.resolve(changes), 10, 2.5)


def torch_steps(make, start, gradients, rates):
    """Return the parameters after steps of an optimiser of PyTorch, by path."""
    torch = pytest.importorskip("torch")
    params = {
        p: torch.tensor(x.T.copy(), requires_grad=True) for p, x in leaves_by_path(start).items()
    }
    groups = [
        {"params": [p for p in params.values() if (p.ndim > 1) == kernels], "weight_decay": decay}
        for kernels, decay in ((True, 0.1), (False, 0.0))
    ]
    optimizer = make(torch, groups)
    for gradient, lr in zip(map(leaves_by_path, gradients), rates, strict=True):
        for path, p in params.items():
            p.grad = torch.tensor(gradient[path].T.copy())
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    return {path: p.detach().numpy().T for path, p in params.items()}


TORCH = {
    "adamw": ({}, lambda torch, groups: torch.optim.AdamW(groups)),
    "rmsprop": (
        {"eps_in_sqrt": False, "decay": 0.99},
        lambda torch, groups: torch.optim.RMSprop(groups, momentum=0.9),
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_ten_steps_are_those_of_pytorch(name):
    arguments, make = TORCH[name]
    start, gradients = random_tree(), [random_tree() for _ in range(STEPS)]
    # PyTorch's RMSprop multiplies by the learning rate after momentum: the same if it is constant.
    changes = {**RATES, "schedule": "constant", "nesterov": False}
    config = config_lib.resolve({"optimizer": name, "optimizer_args": arguments, **changes})
    expected = torch_steps(make, start, gradients, [0.01] * STEPS)
    params, _ = updated(config, start, gradients)
    for path, p in leaves_by_path(params).items():
        np.testing.assert_allclose(p, expected[path], rtol=2e-4, atol=2e-5, err_msg=path)


def test_ten_steps_of_adafactor_are_those_of_pytorch():
    """Which factors every matrix, and multiplies parameters by their decay first."""
    start, gradients = random_tree(), [random_tree() for _ in range(STEPS)]
    changes = {**RATES, "schedule": "constant", "weight_decay": 0.0}
    arguments = {"min_dim_size_to_factor": 1}
    config = config_lib.resolve({"optimizer": "adafactor", "optimizer_args": arguments, **changes})
    expected = torch_steps(
        lambda torch, groups: torch.optim.Adafactor(
            [{**group, "weight_decay": 0.0} for group in groups]
        ),
        start,
        gradients,
        [0.01] * STEPS,
    )
    params, _ = updated(config, start, gradients)
    for path, p in leaves_by_path(params).items():
        np.testing.assert_allclose(p, expected[path], rtol=2e-4, atol=2e-5, err_msg=path)


def test_ten_steps_of_muon_are_those_of_pytorch():
    """Up to the rounding of bfloat16, in which PyTorch makes matrices orthogonal."""
    kernels = [
        {"stage1": {"conv": {"kernel": tree["stage1"]["conv"]["kernel"]}}}
        for tree in (random_tree() for _ in range(STEPS + 1))
    ]
    changes = {**RATES, "schedule": "constant"}
    # Nesterov's momentum is corrected for its start in Optax alone.
    arguments = {"nesterov": False}
    config = config_lib.resolve({"optimizer": "muon", "optimizer_args": arguments, **changes})
    expected = torch_steps(
        lambda torch, groups: torch.optim.Muon(groups[:1], nesterov=False),
        kernels[0],
        kernels[1:],
        [0.01] * STEPS,
    )
    params, _ = updated(config, kernels[0], kernels[1:])
    moved = leaves_by_path(params)["stage1/conv/kernel"] - kernels[0]["stage1"]["conv"]["kernel"]
    theirs = expected["stage1/conv/kernel"] - kernels[0]["stage1"]["conv"]["kernel"]
    assert np.linalg.norm(moved - theirs) < 0.02 * np.linalg.norm(theirs)
