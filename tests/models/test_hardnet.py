"""HarDNet: links, widths, sizes, and the network against straight-line code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import create_model
from aggnets_jax.models.hardnet import layer_width
from tests.models.straight_line import assert_straight_line, halves, jit, max_pool_3
from tests.models.variables import model_info, random_variables
from tests.patterns import one_line_error

SIZES = {
    "hardnet68": (17_565_348, 4.246),
    "hardnet85": (36_670_212, 9.074),
    "hardnet39ds": (3_488_228, 0.429),
    "hardnet68ds": (4_180_602, 0.775),
}


@pytest.mark.parametrize(
    "name",
    [
        "hardnet68",
        "hardnet39ds",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("hardnet85", "hardnet68ds")),
    ],
)
def test_sizes_are_the_printed_ones(name):
    info = model_info(name)
    params, gmacs = SIZES[name]
    assert info.params == params
    assert f"{params / 1e6:.1f}M" == info.printed.params
    assert info.macs == pytest.approx(1e9 * gmacs, abs=5e5)


def test_widths_grow_with_the_links_and_are_even():
    # HarDNet-68, second block: 16, 16 * 1.7 = 27.2, 46.2, 78.6, 133.6.
    widths = [layer_width(layer, 16, 1.7) for layer in range(1, 17)]
    assert widths == [16, 28, 16, 46, 16, 28, 16, 78, 16, 28, 16, 46, 16, 28, 16, 134]
    assert layer_width(2, 14, 1.7) == 24
    assert layer_width(3, 15, 1.7) == 16


TINY = {
    "stage_depths": (4, 3),
    "growth_rate": (4, 6),
    "features": (10, 12),
    "downsampled": (True, False),
    "stem_features": (3, 6),
}
# Who reads whom, and what the blocks put out: odd layers, and the last.
READS = {1: [0], 2: [1, 0], 3: [2], 4: [3, 2, 0]}


def straight_line(depthwise):
    def conv_norm(layers, x, path, stride=1):
        x = layers.norm(layers.conv(x, f"{path}/conv", stride), f"{path}/norm")
        return np.clip(x, 0, 6)

    def depthwise_norm(layers, x, path, stride):
        x = layers.conv(x, f"{path}/conv", stride, groups=x.shape[-1])
        return layers.norm(x, f"{path}/norm")

    def unit(layers, x, path):
        if not depthwise:
            return conv_norm(layers, x, path)
        x = conv_norm(layers, x, f"{path}/pointwise")
        return depthwise_norm(layers, x, f"{path}/depthwise", 1)

    def reference(layers, images):
        x = conv_norm(layers, conv_norm(layers, images, "stem1", 2), "stem2")
        x = depthwise_norm(layers, x, "stem_down", 2) if depthwise else max_pool_3(x)
        for block, put_out in ((1, [1, 3, 4]), (2, [1, 3])):
            y = [x]
            for layer in range(1, put_out[-1] + 1):
                read = np.concatenate([y[source] for source in READS[layer]], axis=-1)
                y.append(unit(layers, read, f"stage{block}/layer{layer}"))
            x = np.concatenate([y[layer] for layer in put_out], axis=-1)
            x = conv_norm(layers, x, f"transition{block}")
            if block == 1:
                x = depthwise_norm(layers, x, "down1", 2) if depthwise else halves(x).max(-1)
        return layers.linear(x.mean((1, 2)), "classifier")

    return reference


@pytest.mark.parametrize(
    ("name", "train"), [("hardnet68", True), ("hardnet68", False), ("hardnet68ds", True)]
)
def test_network_is_the_straight_line_code(name, train):
    assert_straight_line(name, TINY, 16, straight_line(name.endswith("ds")), train)


def test_endpoints_of_a_listed_network():
    model = create_model("hardnet39ds")
    (_, endpoints), variables = jax.eval_shape(
        model.init_with_output, jax.random.key(0), jnp.zeros((2, 224, 224, 3))
    )
    # Four layers: 16, 26, 16 and 16 * 1.6^2 = 40.96; the second is not put out.
    assert endpoints["stage1"].shape == (2, 56, 56, 16 + 16 + 40)
    assert endpoints["pre_logits_2d"].shape == (2, 7, 7, 1024)
    assert set(variables["params"]["stage1"]["layer2"]) == {"pointwise", "depthwise"}


def test_dropouts_act_in_training_where_they_are_said_to():
    model = create_model("hardnet68", 7, **TINY, dropout=0.5, map_dropout=0.5)
    images = np.random.default_rng(0).standard_normal((4, 16, 16, 3)).astype(np.float32)
    run = functools.partial(
        model.apply,
        train=True,
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=lambda module, _: type(module).__name__ == "Dropout",
    )
    (_, endpoints), state = jit(run)(
        random_variables(model, 16, np.float32), images, rngs={"dropout": jax.random.key(1)}
    )
    on_maps, on_features = (
        np.asarray(state["intermediates"][f"Dropout_{i}"]["__call__"][0]) for i in (0, 1)
    )
    for dropped, whole in ((on_maps, endpoints["stage2"]), (on_features, endpoints["pre_logits"])):
        whole = np.asarray(whole)
        kept = dropped != 0
        assert dropped.shape == whole.shape
        assert 0.2 < kept[whole != 0].mean() < 0.8
        np.testing.assert_allclose(dropped[kept], 2 * whole[kept], rtol=1e-6)


def test_topology_and_aggregation():
    model = create_model("hardnet68", 7, **TINY, topology="dense", aggregation="padded_sum")
    (_, endpoints), _ = jax.eval_shape(
        model.init_with_output, jax.random.key(0), jnp.zeros((2, 16, 16, 3))
    )
    # The widest of the outputs, that of layer 4 and of layer 2.
    assert endpoints["stage1"].shape[-1] == layer_width(4, 4, 1.7)
    assert endpoints["stage2"].shape[-1] == 10
    message = one_line_error(create_model, "hardnet68", aggregation="sum")
    assert "several widths; allowed: concat, padded_sum" in message


def test_names():
    assert create_model("hardnet", depth=39, depthwise=True) == create_model("hardnet39ds")
    assert create_model("hardnet39") != create_model("hardnet39ds")
    assert "nearest 85" in one_line_error(create_model, "hardnet80")
