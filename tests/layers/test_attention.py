"""SE, CBAM and the gates of HCGNet against straight-line code, and their effect before training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import create_model
from aggnets_jax.layers import common
from aggnets_jax.layers.attention import ATTENTIONS, largest
from tests.marks import mostly_slow
from tests.models import residual_numpy
from tests.models.residual import jit
from tests.models.test_hcgnet import Reference
from tests.models.variables import random_variables

CHANNELS = 32


def module(kind, train=False, dtype=jnp.float64):
    norm = common.batch_norm(train=train, dtype=dtype)
    return ATTENTIONS[kind](norm, functools.partial(common.conv, dtype=dtype), dtype)()


class OfImages:
    """A module that reads [1, size, size, 3], as `random_variables` needs."""

    def __init__(self, module):
        self.init = lambda key, images: module.init(key, jnp.tile(images[..., :1], CHANNELS))


def channel_gate(part, *pooled):
    hidden = [residual_numpy.relu(residual_numpy.linear(part["squeeze"], x)) for x in pooled]
    gate = sum(residual_numpy.linear(part["excite"], x) for x in hidden)
    return residual_numpy.sigmoid(gate)[:, None, None]


def squeeze_excite(part, x):
    return x * channel_gate(part["channels"], x.mean((1, 2)))


def cbam(part, x):
    x = x * channel_gate(part["channels"], x.mean((1, 2)), x.max((1, 2)))
    pooled = np.stack([x.max(-1), x.mean(-1)], axis=-1)
    gate = residual_numpy.batch_norm(part["norm"], residual_numpy.conv(part["conv"], pooled))
    return x * residual_numpy.sigmoid(gate)


def gates(forget, update):
    """The gates of HCGNet's equations around x."""

    def gated(variables, x, train):
        reference = Reference({key: {"at": part} for key, part in variables.items()}, train)
        at = "at/{}".format
        y = x * reference.forget(x, at)[:, None, None] if forget else x
        return y + reference.update(x, at)[:, None, None] if update else y

    return gated


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("forget_gate", gates(True, False)),
        ("update_gate", gates(False, True)),
        ("gates", gates(True, True)),
    ],
)
def test_gates_of_hcgnet_go_around_any_unit(kind, expected, train):
    with jax.enable_x64(True):
        attention = module(kind, train)
        variables = random_variables(OfImages(attention), 4)
        x = np.random.default_rng(1).standard_normal((2, 5, 5, CHANNELS))
        gated, _ = jit(functools.partial(attention.apply, mutable=["batch_stats"]))(variables, x)
    np.testing.assert_allclose(gated, expected(variables, x, train), rtol=1e-10, atol=1e-10)


@mostly_slow("name", ["resnet20_cifar", "seresnet18", "res2net50_26w_4s"], quick=(0, 1))
def test_residual_networks_have_the_gates_as_attention(name):
    model = create_model(name, attention="gates")
    images = jnp.zeros((1, 32, 32, 3))
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    parts = {"forget_gate", "update_gate", "norm_3x3", "conv_3x3", "norm_5x5", "conv_5x5"}
    assert set(params["stage1"]["layer1"]["attention"]) == parts


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("kind", "expected"), [("se", squeeze_excite), ("cbam", cbam)])
def test_attention_is_straight_line_code(kind, expected, train):
    with jax.enable_x64(True):
        attention = module(kind, train)
        variables = random_variables(OfImages(attention), 4)
        x = np.random.default_rng(1).standard_normal((2, 5, 5, CHANNELS))
        scaled, _ = jit(functools.partial(attention.apply, mutable=["batch_stats"]))(variables, x)
    wanted = expected(residual_numpy.whole(variables, train), x)
    np.testing.assert_allclose(scaled, wanted, rtol=1e-10, atol=1e-10)


def test_the_gate_of_positions_halves_everything_at_first():
    attention = module("cbam", dtype=jnp.float32)
    x = jax.random.normal(jax.random.key(1), (2, 5, 5, CHANNELS))
    scaled, variables = jit(attention.init_with_output)(jax.random.key(0), x)
    pooled = np.asarray(x.mean((1, 2))), np.asarray(x.max((1, 2)))
    gate = channel_gate(residual_numpy.whole(variables)["channels"], *pooled)
    np.testing.assert_allclose(scaled, x * gate / 2, rtol=1e-5)


def test_running_averages_of_the_gate_move_by_a_hundredth():
    attention = module("cbam", train=True, dtype=jnp.float32)
    x = jax.random.normal(jax.random.key(1), (2, 5, 5, CHANNELS))
    variables = jit(attention.init)(jax.random.key(0), x)
    _, updates = jit(functools.partial(attention.apply, mutable=["batch_stats"]))(variables, x)
    part, x = residual_numpy.whole(variables), np.asarray(x)
    x = x * channel_gate(part["channels"], x.mean((1, 2)), x.max((1, 2)))
    gate = residual_numpy.conv(part["conv"], np.stack([x.max(-1), x.mean(-1)], axis=-1))
    moved = updates["batch_stats"]["norm"]["mean"]
    np.testing.assert_allclose(moved, [0.01 * gate.mean()], rtol=1e-3)


def test_the_hidden_layer_has_a_sixteenth_of_the_channels():
    variables = jax.eval_shape(
        module("se", dtype=jnp.float32).init, jax.random.key(0), jnp.ones((1, 4, 4, 256))
    )
    channels = variables["params"]["channels"]
    assert channels["squeeze"]["kernel"].shape == (256, 16)
    assert channels["squeeze"]["bias"].shape == (16,)
    assert channels["excite"]["kernel"].shape == (16, 256)


def test_the_gradient_of_a_maximum_goes_to_its_first_place():
    x = jnp.array([[1.0, 3.0, 3.0], [2.0, 0.0, 1.0]])
    value, gradient = jax.value_and_grad(lambda x: largest(x, -1) @ jnp.ones(1) @ jnp.ones(2))(x)
    assert value == 5
    np.testing.assert_array_equal(gradient, [[0, 1, 0], [1, 0, 0]])
