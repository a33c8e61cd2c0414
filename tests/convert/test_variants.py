"""Weights of variants with the same names: TensorFlow's padding and epsilon; other channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import create_model
from aggnets_jax.convert import from_torch, to_torch, weight_shapes
from aggnets_jax.convert.variants import (
    adapt_channels,
    change_epsilons,
    epsilon_of_variant,
    print_twins,
)
from aggnets_jax.layers.common import conv
from tests.models.variables import shapes_of
from tests.patterns import one_line_error

NAME = "densenet_bc16_k4"


@pytest.fixture(scope="module")
def variables():
    random, shapes = np.random.default_rng(0), shapes_of(create_model(NAME, 7), 8, 3)
    return jax.tree.map(lambda x: random.uniform(0.1, 1, x.shape).astype(np.float32), shapes)


def weights(variables, **keywords):
    return to_torch(NAME, variables, num_classes=7, input_shape=(8, 8, 3), **keywords)


def logits(variables, images):
    return create_model(NAME, 7).apply(variables, images)[0]


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_padding_as_in_tensorflow(kernel_size, size):
    """Zeros at the end alone, where they are an odd number."""
    images = np.random.default_rng(0).normal(size=(1, size, size, 2)).astype(np.float32)
    layer = conv(2, kernel_size, stride=2, groups=2, padding="SAME", dtype=jnp.float32, name="c")
    found, variables = layer.init_with_output(jax.random.key(0), images)
    total = (-(-size // 2) - 1) * 2 + kernel_size - size
    pads = [(0, 0), (total // 2, total - total // 2), (total // 2, total - total // 2), (0, 0)]
    padded, kernel = np.pad(images, pads), np.asarray(variables["params"]["kernel"])
    for row in range(-(-size // 2)):
        for column in range(-(-size // 2)):
            window = padded[
                0, 2 * row : 2 * row + kernel_size, 2 * column : 2 * column + kernel_size
            ]
            expected = (window * kernel[:, :, 0]).sum((0, 1))
            np.testing.assert_allclose(found[0, row, column], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("padding", "readers"), [("symmetric", 4), ("same", 1)])
def test_efficientnet_pads_as_it_is_told(padding, readers):
    """A pixel in the second row and column is read at four places of the stem, or at one."""
    images = jnp.zeros((1, 32, 32, 3)).at[0, 1, 1].set(1.0)
    model = create_model("efficientnet_b0", 10, padding=padding)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    ones = jax.tree.map(lambda x: jnp.ones(x.shape), shapes)
    stem = jax.jit(lambda variables: model.apply(variables, images)[1]["stem"])(ones)
    assert (stem[0, :, :, 0] != stem[0, 8, 8, 0]).sum() == readers
    network = {"input_shape": (32, 32, 3), "padding": padding}
    state_dict = to_torch("efficientnet_b0", ones, num_classes=10, dialect="timm", **network)
    back = from_torch("efficientnet_b0", state_dict, **network)
    assert jax.tree.structure(back) == jax.tree.structure(ones)
    if padding == "same":  # torchvision has no such network
        wrong = {"num_classes": 10, "dialect": "torchvision", **network}
        assert "allowed: aggnets, timm" in one_line_error(
            to_torch, "efficientnet_b0", ones, **wrong
        )


def test_an_unknown_padding():
    message = one_line_error(create_model, "efficientnet_b0", padding="valid")
    assert message == "unknown padding 'valid'; allowed: same, symmetric"


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("efficientnet_b0", {}, "tf_efficientnet_b0 has the same names"),
        ("efficientnet_b0", {"padding": "same"}, ""),
        ("resnet50", {}, "resnetaa50"),
        ("resnet18", {}, ""),
        (NAME, {}, ""),
    ],
)
def test_twins_with_the_same_names_are_told(name, arguments, told, capsys):
    print_twins(create_model(name, 10, **arguments))
    out = capsys.readouterr().out
    assert told in out and bool(told) == bool(out)


def test_weights_of_tensorflow_are_for_networks_that_pad_as_it_does():
    there = {"architecture": "tf_efficientnet_b0"}
    assert epsilon_of_variant(there, {"padding": "same"}) == 1e-3
    assert epsilon_of_variant({"architecture": "efficientnet_b0"}, {"padding": "same"}) is None
    assert epsilon_of_variant({}, {}) is None
    message = one_line_error(epsilon_of_variant, there, {"padding": "symmetric"})
    assert message.endswith("set --config.model.args.padding=same")


@pytest.mark.slow
def test_another_epsilon_becomes_a_part_of_the_scales(variables):
    """The function of a network with that epsilon, exactly to rounding."""
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)
    given = weights(variables)
    changed = from_torch(NAME, given, input_shape=(8, 8, 3), epsilon=1e-3)
    # 1e-5 is added to a variance here: so variances that are larger by the difference do the same.
    larger = jax.tree_util.tree_map_with_path(
        lambda path, x: x + np.float32(1e-3 - 1e-5) if path[-1].key == "var" else x, variables
    )
    expected = logits(larger, images)
    np.testing.assert_allclose(logits(changed, images), expected, rtol=1e-5)
    assert np.abs(logits(variables, images) - expected).max() > 1e-3 * np.abs(expected).max()
    back = weights(changed, epsilon=1e-3)
    for key, value in given.items():
        np.testing.assert_allclose(back[key], value, rtol=1e-6)


def test_epsilons_that_can_not_be_changed():
    variables = {"batch_stats/norm/var": np.ones(3)}
    message = one_line_error(change_epsilons, variables, {"norm": (1e-3, 1e-5)})
    assert message == "the normalisation 'norm' has no scale that could absorb an epsilon"
    assert "at least 0" in one_line_error(change_epsilons, variables, {"norm": (-1, 1e-5)})
    assert change_epsilons(variables, {"norm": (1e-5, 1e-5)}) == {}


def test_color_weights_compute_the_same_for_grey_images(variables, capsys):
    given = weights(variables)
    assert weight_shapes(NAME, given) == (7, 3)
    grey = from_torch(NAME, given, input_shape=(8, 8, 1))
    assert "'features.conv0.weight' of colour images is adapted to images with 1" in (
        capsys.readouterr().out
    )
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 1)).astype(np.float32)
    expected = logits(variables, np.repeat(images, 3, -1))
    np.testing.assert_allclose(logits(grey, images), expected, rtol=1e-5)


def test_color_weights_for_other_channels():
    kernel = np.random.default_rng(0).normal(size=(2, 3, 1, 1))
    five = adapt_channels("k", kernel, (2, 5, 1, 1))
    np.testing.assert_allclose(five[:, 3:], kernel[:, :2] * 3 / 5)
    np.testing.assert_allclose(five[:, :3], kernel * 3 / 5)
    two = np.ones((2, 2, 1, 1))
    assert adapt_channels("k", two, (2, 5, 1, 1)) is two
