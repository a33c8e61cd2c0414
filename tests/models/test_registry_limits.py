"""Arguments that no network has: huge numbers, no stages, no channels, odd images and dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import create_model, model_info
from aggnets_jax.layers import common
from aggnets_jax.models import check_image_shape, paper_flops
from tests.patterns import one_line_error


def test_flops_are_not_those_of_images_too_small():
    assert "too small" in one_line_error(paper_flops, "densenet7_k4", input_shape=(1, 1, 3))
    assert paper_flops("densenet7_k4", input_shape=[8, 8, 3]) > 0


@pytest.mark.parametrize(
    "shape",
    [
        (32, 32),
        (32, 32, 3, 3),
        (32, 32, 0),
        (32, 32, -3),
        (32.0, 32, 3),
        (True, 32, 3),
        (10**7, 32, 3),
        "x",
        "123",
        5,
        None,
    ],
    ids=str,
)
def test_images_have_height_width_and_channels(shape):
    message = one_line_error(check_image_shape, shape)
    assert message.startswith("input_shape must be height, width and channels")
    assert one_line_error(model_info, "densenet7_k4", input_shape=shape) == message
    assert one_line_error(paper_flops, "densenet7_k4", input_shape=shape) == message


def test_image_shapes_are_tuples_of_int():
    assert check_image_shape([np.int64(8), 16, 3]) == (8, 16, 3)
    assert all(type(side) is int for side in check_image_shape([np.int64(8), 16, 3]))


@pytest.mark.parametrize("dtype", ["floaty", "int32", "complex64", None, 5, []], ids=str)
def test_networks_compute_in_floating_point(dtype):
    message = one_line_error(create_model, "densenet7_k4", dtype=dtype)
    assert message.startswith("dtype must be one of float16, bfloat16, float32, float64, got")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", jnp.bfloat16, np.float64])
def test_dtypes_are_known_by_name_and_type(dtype):
    model = create_model("densenet7_k4", dtype=dtype)
    images = jnp.ones((1, 8, 8, 3))
    with jax.enable_x64(True):
        (_, endpoints), _ = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    assert endpoints["stage1"].dtype == jnp.dtype(dtype)


# Far more than can be built: refused before a list of so many layers is made.
@pytest.mark.parametrize(
    "name",
    [
        "resnet10000000000",
        "resnet99999999998",
        "densenet100000000000_k12",
        pytest.param("densenet" + "9" * 5000 + "_k12", id="5000 digits"),
        "densenet40_k12_12_1000000000000",
        "mdnet3000000000_a64",
        "mdnet999999_a64",
        "mdnet30_a64_n99999999999",
        "mdnet30_a64_n999999",
        "hcgnet_n99999999999_k12",
        "hcgnet_n999999_k12",
        "wrn100000000000_1",
        "wrn999994_1",
        "highway100000000",
        "highway999999",
        "resnet999998",
        "resnet999999",
        "seqresnet_k8_r4_n999999",
        "seqresnet_k8_r999999_n1",
        "seqresnet_k7_r999999_n1",
        "fractalnet655360",
        "pyramidnet999998_a48",
        "res2net50_26w_999999s",
        "wide_resnet50_999999",
    ],
)
def test_huge_numbers_in_names_are_told(name):
    assert len(one_line_error(create_model, name)) < 200


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("densenet", {"depth": 10**11, "growth_rate": 12}),
        ("densenet", {"depth": 40, "growth_rate": 10**12}),
        ("densenet", {"depth": 40, "growth_rate": (12, 12, 10**12)}),
        ("densenet40_k12", {"stage_depths": [10**9]}),
        ("densenet40_k12", {"num_classes": 10**12}),
        ("resnet", {"depth": 10**10}),
        ("mdnet", {"depth": 30, "alpha": 10**12}),
    ],
    ids=str,
)
def test_huge_numbers_in_arguments_are_told(name, overrides):
    message = one_line_error(create_model, name, **overrides)
    assert "is too large a number; allowed: at most 999999" in message


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("densenet40_k12", "stage_depths"),
        ("mixnet100_k12_12", "stage_depths"),
        ("resnet50", "stage_depths"),
        ("res2net50_26w_4s", "stage_depths"),
        ("highway19", "stage_depths"),
        ("fractalnet20", "stage_depths"),
        ("fractalnet20", "widths"),
        ("dpn68", "stage_depths"),
        ("hardnet68", "stage_depths"),
    ],
)
@pytest.mark.parametrize("empty", [[], ()], ids=str)
def test_a_network_has_a_stage(name, argument, empty):
    message = one_line_error(create_model, name, **{argument: empty})
    assert "at least one stage" in message or "at least 1, got 0" in message


@pytest.mark.parametrize(
    ("name", "channels"), [("densenet7_k4", 12), ("mixnet10_k0_1", 3), ("hcgnet_n1_1_k4", 12)]
)
def test_a_transition_has_channels(name, channels):
    message = one_line_error(model_info, name, compression=0.01)
    assert f"compression 0.01 leaves none of {channels} channels; allowed: at least" in message


def test_the_allowed_compression_leaves_channels():
    for channels in range(1, 100):
        message = one_line_error(common.compressed, channels, 0.5 / channels)
        assert common.compressed(channels, float(message.split()[-1])) == 1


def test_compression_is_rounded_down_in_decimals():
    assert int(0.29 * 100) == 28
    assert common.compressed(100, 0.29) == 29
    assert common.compressed(101, 0.29) == 29
    assert common.compressed(7, 0.5) == 3
    assert common.compressed(3, 0.1, least=2) == 2


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("densenet7_k4", ("transition1", "conv")),
        ("mixnet10_k0_4", ("transition1", "conv")),
        ("hcgnet_n1_1_k4", ("transition1", "conv2")),
    ],
)
def test_transitions_keep_what_the_compression_says(name, kernel):
    model = create_model(name, stem_features=96, compression=0.29)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 16, 16, 3)))
    transition, conv = kernel
    assert variables["params"][transition][conv]["kernel"].shape[-1] == 29
