"""Highway networks against eq. 3, their gates at first, and their size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import create_model
from aggnets_jax.connectivity.topology import make_topology
from tests.models.residual_numpy import convolve
from tests.models.straight_line import assert_straight_line, halves, jit
from tests.models.variables import model_info
from tests.patterns import one_line_error


def test_size_is_the_printed_one():
    widths = [(3, 32, 4), (32, 80, 5), (80, 128, 5)]
    convs = sum(
        (9 * inputs + 1) * width + 2 * gated * (9 * width + 1) * width
        for inputs, width, gated in widths
    )
    info = model_info("highway19")
    assert info.params == convs + 129 * 100 + 101 * 10 == 2_256_838
    assert info.printed.params == "2.3M"
    # Opening convolutions and gated layers, and the two layers of the head.
    assert sum(1 + topology.depth for topology in create_model("highway19").topologies) + 2 == 19


def equation_3(depths, sources_of):
    def reference(layers, images):
        x = images
        for stage, depth in enumerate(depths, start=1):
            if stage > 1:
                x = halves(x).max(-1)
            y = [np.maximum(layers.conv(x, f"stage{stage}_opening"), 0)]
            for layer in range(1, depth):
                path = f"stage{stage}/layer{layer}"
                transformed = np.maximum(layers.conv(y[-1], f"{path}/transform"), 0)
                gate = 1 / (1 + np.exp(-layers.conv(y[-1], f"{path}/gate")))
                carried = sum(y[source] for source in sources_of(layer))
                y.append(transformed * gate + carried * (1 - gate))
            x = y[-1]
        x = np.maximum(layers.conv(x, "head_conv"), 0).mean((1, 2))
        return layers.linear(x, "classifier")

    return reference


@pytest.mark.parametrize("topology", ["plain", "sparse"])
def test_network_is_equation_3(topology):
    sources = {
        "plain": lambda layer: [layer - 1],
        "sparse": lambda layer: [layer - offset for offset in (1, 2, 4) if offset <= layer],
    }[topology]
    overrides = {"stage_depths": (4, 1, 3), "widths": (4, 3, 5), "topology": topology}
    reference = equation_3((4, 1, 3), sources)
    assert_straight_line("highway", overrides, 8, reference, train=False)


def test_closed_gates_leave_the_identity_and_open_ones_the_transform():
    images = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)

    def network(bias, layers):
        model = create_model("highway", 7, stage_depths=(layers,), widths=6, gate_bias=bias)
        return model, jit(model.init)(jax.random.key(0), images)

    closed, variables = network(-100.0, 9)
    _, endpoints = jit(closed.apply)(variables, images)
    assert np.abs(endpoints["stem"]).max() > 0
    np.testing.assert_array_equal(endpoints["stage1"], endpoints["stem"])

    opened, variables = network(100.0, 3)
    _, endpoints = jit(opened.apply)(variables, images)
    x = np.asarray(endpoints["stem"])
    for layer in (1, 2):
        kernel = variables["params"]["stage1"][f"layer{layer}"]["transform"]["kernel"]
        x = np.maximum(convolve(x, kernel), 0)
    np.testing.assert_allclose(endpoints["stage1"], x, rtol=1e-4, atol=1e-5)


def test_initialisation():
    model = create_model("highway11", widths=(32, 48, 64))
    params = jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    gates, others = [], []
    for path, value in jax.tree_util.tree_leaves_with_path(params):
        names, value = [key.key for key in path], np.asarray(value)
        if names[-1] == "bias":
            (gates if "gate" in names else others).append(value)
        elif names[0] != "classifier":
            # Uniform, by the fan-in.
            bound = np.sqrt(3 / np.prod(value.shape[:-1]))
            assert 0.98 * bound < np.abs(value).max() <= bound
            assert value.std() == pytest.approx(bound / np.sqrt(3), rel=0.06)
    assert len(gates) == 2 + 2 + 2
    assert all((bias == -2).all() for bias in gates)
    assert all((bias == 0).all() for bias in others)


def test_dropout_of_images_stages_and_features():
    model = create_model("highway11", widths=4, dropout=0.5)
    images = np.ones((4, 32, 32, 3), np.float32)

    @jit
    def run(key):
        variables = model.init(jax.random.key(0), images)
        _, state = model.apply(
            variables,
            images,
            train=True,
            rngs={"dropout": key},
            capture_intermediates=lambda module, _: type(module).__name__ == "Dropout",
        )
        return state["intermediates"]

    dropped = run(jax.random.key(1))
    shapes = [dropped[f"Dropout_{i}"]["__call__"][0].shape for i in range(4)]
    assert shapes == [(4, 32, 32, 3), (4, 16, 16, 4), (4, 8, 8, 4), (4, 100)]
    first = np.asarray(dropped["Dropout_0"]["__call__"][0])
    assert set(np.unique(first)) == {0, 2}
    assert abs((first == 0).mean() - 0.5) < 0.05


def test_names_and_numbers():
    assert [t.depth + 1 for t in create_model("highway19").topologies] == [5, 6, 6]
    assert [t.depth + 1 for t in create_model("highway32").topologies] == [10, 10, 10]
    assert create_model("highway", depth=19) == create_model("highway19")
    assert create_model("highway19").topologies[1] == make_topology("plain", 5)
    message = one_line_error(create_model, "highway19", aggregation="concat")
    assert "would widen what a gate carries" in message
    assert "at least 5" in one_line_error(create_model, "highway4")
