"""Images as networks take them, and maps that become empty."""

import jax
import jax.numpy as jnp
import pytest

from aggnets_jax import create_model, model_info
from aggnets_jax.layers.common import (
    as_images,
    average_and_flatten,
    branch_dropout,
    global_average,
)
from aggnets_jax.train import train_and_evaluate
from tests import runs
from tests.marks import mostly_slow
from tests.patterns import one_line_error

EMPTY = "images are too small for this network: its last map is 0x0"
SMALL = {"stage_depths": (1, 1, 1, 1), "growth_rate": 4, "stem_features": 8}


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 1, 8, 8), (32, 32, 3), (2, 3), ()])
def test_images_in_another_order_are_refused(shape):
    message = one_line_error(as_images, jnp.zeros(shape), jnp.float32)
    assert message.startswith("images must be [batch, height, width, channels], got the shape (")
    assert ("images.transpose(0, 2, 3, 1)" in message) == (len(shape) == 4)


@pytest.mark.parametrize("shape", [(2, 32, 32, 3), (2, 8, 8, 1), (1, 1, 1, 3), (2, 3, 3, 12)])
def test_images_in_our_order_are_cast(shape):
    images = as_images(jnp.zeros(shape), jnp.bfloat16)
    assert images.shape == shape and images.dtype == jnp.bfloat16


def test_a_network_says_what_it_takes():
    model = create_model("densenet7_k4")
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    for call in (model.apply, model.init):
        first = variables if call == model.apply else jax.random.key(0)
        assert "PyTorch" in one_line_error(call, first, jnp.zeros((1, 3, 8, 8)))


@pytest.mark.slow
@mostly_slow("train", [False, True], quick=(0,))
def test_an_empty_map_is_the_same_error_everywhere(train, tmp_path, data_dir):
    model = create_model("densenet_imagenet", 10, **SMALL)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), variables)
    images, mutable = jnp.zeros((2, 28, 28, 3)), ["batch_stats"] if train else []
    message = one_line_error(model.apply, zeros, images, train=train, mutable=mutable)
    if not train:
        assert message == EMPTY
        assert one_line_error(model.init, jax.random.key(0), images) == EMPTY
        shape = {"input_shape": (28, 28, 3)}
        assert one_line_error(model_info, "densenet_imagenet", **SMALL, **shape) == EMPTY
        named = {"name": "densenet_imagenet", "args": SMALL}
        config = runs.tiny_config(data_dir, model=named)
        assert one_line_error(train_and_evaluate, config, tmp_path / "run") == EMPTY
    assert message.startswith("images are too small for this network")


def test_poolings_refuse_empty_maps():
    assert one_line_error(global_average, jnp.zeros((2, 0, 0, 3))) == EMPTY
    assert "is 1x1" in one_line_error(average_and_flatten, jnp.zeros((2, 1, 1, 3)))


@pytest.mark.parametrize(
    ("name", "arguments", "called"),
    [
        ("densenet_bc16_k4", {}, "DenseNet"),
        ("densenet7_k4", {}, "DenseNet"),
        ("densenet7_k4", {"topology": "windowed", "topology_args": {"window": 1}}, "SparseNet"),
        ("sparsenet10_k4", {}, "SparseNet"),
        ("resnet18", {}, "ResNet"),
    ],
)
def test_a_network_is_printed_by_its_name(name, arguments, called):
    assert repr(create_model(name, 10, **arguments)).startswith(f"{called}(")


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_dropped_branches_keep_the_mean_and_stay_finite(rate):
    x = jnp.ones((20_000, 1, 1, 2))
    module = branch_dropout(rate, train=True)
    y = module.apply({}, x, rngs={"dropout": jax.random.key(0)})
    assert float(y.mean()) == pytest.approx(1 if rate < 1 else 0, abs=0.02)
    assert float((y > 0).mean()) == pytest.approx(1 - rate, abs=0.02)
    assert jnp.isfinite(y).all()
