"""WRN-d-k and DSWRN against straight-line code, and their sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import create_model
from aggnets_jax.errors import UserError
from tests.marks import mostly_slow
from tests.models import residual_numpy as layers
from tests.models.residual import SIZE, assert_is, drawn, jit, parameters, shapes
from tests.models.variables import model_info, random_variables

WRN = {"depth": 16, "widening": 2}


def block(part, x, stride, opening=False):
    read = layers.relu(layers.batch_norm(part["norm1"], x))
    y = layers.conv(part["conv1"], read, stride)
    y = layers.conv(part["conv2"], layers.relu(layers.batch_norm(part["norm2"], y)))
    if not opening:
        return y
    return y + (layers.conv(part["projection"], read, stride) if "projection" in part else x)


def network(variables, images, *, dense=False, train=False, blocks=2):
    part = layers.whole(variables, train)
    x = layers.conv(part["stem_conv"], images)
    for i in (1, 2, 3):
        outputs = [block(part[f"stage{i}_opening"], x, 1 if i == 1 else 2, opening=True)]
        stage = part[f"stage{i}"]
        for layer in range(1, blocks):
            shortcut = outputs[-1]
            if dense:
                groups = min(32, shortcut.shape[-1] // 4)
                normalised = [layers.group_norm(y, groups) for y in outputs]
                weights = stage[f"weights{layer}"].params["weights"]
                shortcut = sum(w * y for w, y in zip(weights, normalised, strict=True))
            outputs.append(block(stage[f"layer{layer}"], outputs[-1], 1) + shortcut)
        x = outputs[-1]
    x = layers.relu(layers.batch_norm(part["head_norm"], x))
    return layers.linear(part["classifier"], x.mean((1, 2)))


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_wide_resnet_is_straight_line_code(train):
    assert_is("wrn", functools.partial(network, train=train), train=train, **WRN)


def test_dswrn_adds_normalised_outputs():
    expected = functools.partial(network, dense=True, blocks=3)
    assert_is("dswrn", expected, depth=22, widening=1)


def test_all_blocks_added_are_the_previous_output():
    """He et al., eq. 4: without an activation y_{l-1} is the sum of all F so far."""
    expected = functools.partial(network, blocks=3)
    dense = {"topology": "dense", "shortcut_sources": "blocks"}
    assert_is("wrn", expected, depth=22, widening=1, **dense)


def test_the_first_stage_is_projected_only_to_another_width():
    assert "projection" not in shapes("wrn16_1")["stage1_opening"]
    assert shapes("wrn16_2")["stage1_opening"]["projection"]["kernel"].shape == (1, 1, 16, 32)
    assert "projection" in shapes("wrn16_1")["stage2_opening"]


SIZES = {
    ("wrn28_10", 100): 36_536_884,
    ("dswrn28_10", 100): 36_543_604,
    ("wrn28_10", 10): 36_479_194,
    ("wrn40_4", 10): 8_949_210,
    ("wrn16_8", 10): 10_961_370,
    ("wrn22_8", 10): 17_158_106,
    ("wrn40_1", 10): 563_930,
    ("wrn40_2", 10): 2_243_546,
}


@mostly_slow(("name", "classes"), SIZES, quick=(1, 4, 6))
def test_sizes(name, classes):
    assert parameters(name, classes) == SIZES[name, classes]


def test_dense_shortcuts_cost_a_weight_for_each_channel_and_pair():
    pairs, channels = 1 + 2 + 3, 160 + 320 + 640
    assert SIZES["dswrn28_10", 100] - SIZES["wrn28_10", 100] == pairs * channels


@pytest.mark.parametrize("name", ["wrn28_10", "wrn40_4", "wrn16_8", "wrn22_8", "wrn40_1"])
def test_printed_sizes(name):
    printed = model_info(name).printed.params
    assert f"{SIZES[name, 10] / 1e6:.1f}M" == printed


def test_dropout_is_between_the_convolutions_and_only_in_training():
    model = create_model("wrn10_1", 5, dropout=0.5)
    variables = random_variables(model, SIZE, np.float32)
    images = np.random.default_rng(1).standard_normal((2, SIZE, SIZE, 3)).astype(np.float32)

    def logits(train, seed):
        apply = functools.partial(model.apply, train=train, mutable=["batch_stats"])
        rngs = {"dropout": jax.random.key(seed)}
        return jit(lambda v, x: apply(v, x, rngs=rngs)[0][0])(variables, images)

    assert np.abs(logits(True, 0) - logits(True, 1)).max() > 1e-3
    np.testing.assert_array_equal(logits(False, 0), logits(False, 1))


def test_convolutions_are_drawn_by_fan_out():
    (kernel,) = drawn("wrn16_8", "stage2/layer1/conv1/kernel")
    np.testing.assert_allclose(kernel.std(), (2 / (9 * 256)) ** 0.5, rtol=0.02)


def test_endpoints_in_bfloat16():
    model = create_model("dswrn16_1", 7, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    (logits, endpoints), _ = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    assert logits.dtype == jnp.float32
    assert endpoints["stage3"].dtype == jnp.bfloat16
    assert {name: value.shape for name, value in endpoints.items()} == {
        "stem": (2, 16, 16, 16),
        "stage1": (2, 16, 16, 16),
        "stage2": (2, 8, 8, 32),
        "stage3": (2, 4, 4, 64),
        "pre_logits_2d": (2, 4, 4, 64),
        "pre_logits": (2, 64),
        "logits": (2, 7),
    }


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("wrn29_10", {}, "6n + 4, nearest 28"),
        ("wrn4_1", {}, "nearest 10"),
        ("wrn28_0", {}, "widening must be a whole number of at least 1"),
        ("wrn28_10", {"dropout": 1.0}, "dropout must be a number from 0 to 0.99"),
        ("wrn28_10", {"aggregation": "concat"}, "would widen the shortcut"),
        ("dswrn28_10", {"inner_shortcuts": True}, "has no argument"),
    ],
)
def test_refusals_are_one_line(name, overrides, message):
    with pytest.raises(UserError) as caught:
        create_model(name, **overrides)
    assert message in str(caught.value) and "\n" not in str(caught.value)
