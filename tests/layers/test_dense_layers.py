"""Transitions of dense networks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import create_model
from aggnets_jax.layers import common
from aggnets_jax.layers.dense_layers import Transition
from aggnets_jax.models.flops import count
from aggnets_jax.runtime.compilation import compile_for


@pytest.mark.parametrize("side", [8, 7])
def test_a_transition_pools_first_on_a_tpu_and_computes_the_same(side):
    norm = common.batch_norm(train=True, dtype=jnp.float32)
    transition = Transition(0.5, norm, partial(common.conv, dtype=jnp.float32))
    x = jax.random.normal(jax.random.key(0), (4, side, side, 6))
    variables = transition.init(jax.random.key(1), x)

    def loss(params, x):
        y, _ = transition.apply({**variables, "params": params}, x, mutable=["batch_stats"])
        return jnp.square(y).sum(), y

    def program(platform):
        with compile_for(platform):
            step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
            return step(variables["params"], x), str(step.trace(variables["params"], x).jaxpr)

    here, there = program("cpu"), program("tpu")
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), here[0], there[0])
    pool, convolution = (there[1].index(name) for name in ("reduce_window_sum", "conv_general"))
    assert pool < convolution


def test_counts_of_networks_do_not_depend_on_the_backend():
    model = create_model("densenet10_k4", 10)
    with compile_for("tpu"):
        there = count(model, (32, 32, 3))
    assert there == count(model, (32, 32, 3))
