"""The benchmark times the programs that the package runs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax.benchmark.forms import Form, parse_form, parse_forms
from aggnets_jax.benchmark.modes import train
from aggnets_jax.benchmark.workload import Workload, abstract_variables, random_variables
from aggnets_jax.data import as_they_are
from aggnets_jax.errors import UserError
from aggnets_jax.runtime.compilation import compiler_options
from aggnets_jax.tasks.classification import Classification
from aggnets_jax.training.optimizer import make_optimizer
from aggnets_jax.training.state import initial_state
from aggnets_jax.training.step import make_train_step

WORKLOAD = Workload("sparsenet", 4, (8, 8, 3), {"depth": 7, "growth_rate": 4})


def _after(steps):
    """The state after some steps, as `aggnets_jax.training.step` makes them."""
    model, config = WORKLOAD.create(), WORKLOAD.config()
    optimizer, _ = make_optimizer(config, 10_000, 10_000)
    step = jax.jit(
        make_train_step(Classification(), model, optimizer, as_they_are, config),
        compiler_options=compiler_options(),
    )
    variables = random_variables(abstract_variables(model, WORKLOAD.image_shape))
    state = initial_state(variables, optimizer, config, config.seed, Classification.sums)
    for _ in range(steps):
        state = step(state, WORKLOAD.random_batch())
    return state


@pytest.mark.slow
def test_training_computes_the_step_of_the_package():
    program = train(WORKLOAD)
    program.run(1)
    program.run(2)
    expected = _after(3)
    assert program.state.updates == 3
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        program.state,
        expected,
    )


@pytest.mark.slow
def test_steps_in_one_dispatch_are_the_same_steps():
    program = train(dataclasses.replace(WORKLOAD, steps_per_dispatch=2))
    program.run(3)  # of which the last is alone
    assert program.state.updates == 3
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        program.state.params,
        _after(3).params,
    )


def test_variables_have_the_shapes_of_the_network_and_no_zeros():
    shapes = abstract_variables(WORKLOAD.create(), WORKLOAD.image_shape)
    values = random_variables(shapes)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, values)
    for path, value in jax.tree_util.tree_leaves_with_path(values):
        assert np.all(value != 0)
        if path[-1].key in ("scale", "var"):
            assert np.all(value >= 1)


@pytest.mark.parametrize("name, layers", [("layer2", ()), ("layers2_5", (4,))])
def test_kernels_have_he_s_variance(name, layers):
    shapes = {name: {"conv1": {"kernel": jax.ShapeDtypeStruct((*layers, 3, 3, 64, 64), float)}}}
    values = jax.tree.leaves(random_variables(shapes))[0]
    assert np.std(values) == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)


def test_forms():
    plain = parse_form("plain")
    assert plain.native
    assert plain.arguments == {"shared_statistics": False, "remat": "none", "scan": False}
    both = parse_form("native+remat=layer")
    assert both.native
    assert both.arguments == {"remat": "layer"}
    first, second = parse_forms("stage_depths=(3,4)+scan,default")
    assert not first.native
    assert first.arguments == {"stage_depths": (3, 4), "scan": True}
    assert second == Form()
    with pytest.raises(UserError, match="unknown form 'scam'; nearest: scan"):
        parse_form("default+scam")
