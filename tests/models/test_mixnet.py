"""MixNet against the running feature map of its reference code, and its printed sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import create_model
from tests.models.straight_line import assert_straight_line, halves, jit
from tests.models.variables import model_info, random_variables
from tests.patterns import one_line_error

SIZES = {
    "mixnet100_k12_12": 1_464_202,
    "mixnet105": 11_156_776,
}
DEEP_SIZES = {
    "mixnet121": 21_859_480,
    "mixnet141": 41_074_600,
    "mixnet250_k24_24": 28_964_122,
    "mixnet190_k40_40": 48_537_770,
}


@pytest.mark.parametrize(
    ("name", "params"),
    [
        *SIZES.items(),
        *(pytest.param(*row, marks=pytest.mark.slow) for row in DEEP_SIZES.items()),
    ],
)
def test_sizes_are_the_printed_ones(name, params):
    info = model_info(name)
    assert info.params == params
    digits = info.printed.params[:-1]
    assert f"{params / 1e6:.{len(digits.partition('.')[2])}f}" == digits


def running_map(k1, k2, depths):
    def bottleneck(layers, x, path):
        x = layers.conv(layers.norm_relu(x, f"{path}/norm1"), f"{path}/conv1")
        return layers.conv(layers.norm_relu(x, f"{path}/norm2"), f"{path}/conv2")

    def reference(layers, images):
        x = layers.conv(images, "stem_conv")
        for i, depth in enumerate(depths, start=1):
            if i > 1:
                x = layers.norm_relu(x, f"transition{i - 1}/norm")
                x = halves(layers.conv(x, f"transition{i - 1}/conv")).mean(-1)
            for layer in range(1, depth + 1):
                path = f"stage{i}/layer{layer}"
                inner = bottleneck(layers, x, f"{path}/inner") if k1 else 0
                outer = [bottleneck(layers, x, f"{path}/outer")] if k2 else []
                x = x.copy()
                x[..., x.shape[-1] - k1 :] += inner
                x = np.concatenate([x, *outer], axis=-1)
        x = layers.norm_relu(x, "head_norm").mean((1, 2))
        return layers.linear(x, "classifier")

    return reference


@pytest.mark.parametrize(("k1", "k2", "train"), [(3, 2, True), (3, 2, False), (4, 0, True)])
def test_network_is_the_shifted_addition_to_a_running_map(k1, k2, train):
    overrides = {"stage_depths": (3, 2), "stem_features": 9}
    reference = running_map(k1, k2, (3, 2))
    assert_straight_line(f"mixnet22_k{k1}_{k2}", overrides, 8, reference, train)


def test_without_inner_links_it_is_a_densenet():
    images = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)
    mixed = create_model("mixnet16_k0_4")
    densenet = create_model("densenet_bc16_k4")
    variables = random_variables(mixed, 8, np.float32)

    def without_links(tree):
        tree = {k: without_links(v) if isinstance(v, dict) else v for k, v in tree.items()}
        return tree.get("outer", tree)

    expected = jit(densenet.apply)(without_links(variables), images)[0]
    np.testing.assert_array_equal(jit(mixed.apply)(variables, images)[0], expected)


def test_widths_and_defaults():
    model = create_model("mixnet16_k30_4")
    (_, endpoints), _ = jax.eval_shape(
        model.init_with_output, jax.random.key(0), jnp.zeros((2, 32, 32, 3))
    )
    channels = {name: value.shape[-1] for name, value in endpoints.items()}
    assert channels["stem"] == 30
    # Each layer appends k2; half of the channels would be less than an inner link adds to.
    assert channels["stage1"] == channels["stage2"] == 30 + 2 * 4
    assert create_model("mixnet", depth=16, k1=30, k2=4) == model
    assert create_model("mixnet121") == create_model("mixnet_imagenet", depth=121)
    assert create_model("mixnet121_k40_40") == create_model("mixnet121")
    assert create_model("mixnet121", k2=8) == create_model("mixnet121_k40_8")


@pytest.mark.parametrize("aggregation", ["concat", "sum", "mean"])
def test_other_aggregations_and_topologies(aggregation):
    model = create_model("mixnet22_k3_2", aggregation=aggregation, topology="sparse")
    (_, endpoints), _ = jax.eval_shape(
        model.init_with_output, jax.random.key(0), jnp.zeros((2, 8, 8, 3))
    )
    # The output of a stage of three layers reads the layers 3 and 2, and its input of 4 channels.
    assert endpoints["stage1"].shape[-1] == (5 + 5 + 4 if aggregation == "concat" else 5)


def test_numbers_that_fit_no_network():
    def error(name, **overrides):
        return one_line_error(create_model, name, **overrides)

    assert "6n + 4, nearest 100" in error("mixnet101_k12_12")
    assert "k1 and k2 can't both be 0" in error("mixnet100_k0_0")
    assert "needs the argument 'k2'" in error("mixnet", depth=16, k1=3)
    assert "[105, 121, 141]" in error("mixnet_imagenet", depth=122)
    assert "nearest: mixed" in error("mixnet100_k12_12", aggregation="mixd")
