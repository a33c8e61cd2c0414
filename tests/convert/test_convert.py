"""Weights by the names of other implementations, and what is told when they do not fit."""

import re

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util

from aggnets_jax import create_model
from aggnets_jax.convert import from_torch, to_torch
from aggnets_jax.errors import UserError
from aggnets_jax.models import fpnasnet
from tests.models import golden
from tests.models.variables import shapes_of, starting_from_zeros
from tests.patterns import one_line_error

PLAIN = "densenet40_k12"
QUICK = ("densenet40_k12_c10", "dsn_cifar_c10", "nin_cifar_c100", "seqresnet_k8_r4_n1_c10")


@pytest.fixture(scope="module")
def weights():
    """Return the weights of the reference implementation of `PLAIN` with 10 classes."""
    return golden.state_dict(golden.load("densenet40_k12_c10")["state_dict"])


@pytest.fixture(autouse=True)
def shapes_alone():
    """Converted weights replace all initial values of a network."""
    with starting_from_zeros():
        yield


def any_variables(model, images):
    """Values that differ, of the shapes that the network has for such images."""
    size, _, channels = images
    shapes = shapes_of(model, size, channels)
    random = np.random.default_rng(0)
    return jax.tree.map(lambda x: random.uniform(0.1, 1, x.shape).astype(np.float32), shapes)


def refusal(state_dict, name=PLAIN, **keywords):
    return one_line_error(from_torch, name, state_dict, **keywords)


@pytest.mark.parametrize(
    "file",
    [pytest.param(f, marks=() if f in QUICK else pytest.mark.slow) for f in golden.FILES],
)
def test_every_weight_of_a_reference_arrives_once_and_can_be_taken_back(file):
    reference = golden.load(file)
    name, classes = reference["model"], reference["num_classes"]
    weights = golden.state_dict(reference["state_dict"])
    # Companion classifiers of a Deeply Supervised Net are no part of the network.
    companions = [key for key in weights if key.startswith("ip_svm")]
    left_out = sum(weights.pop(key).size for key in companions)
    variables = from_torch(name, weights, num_classes=classes)
    normalised = any("running_mean" in key for key in weights)
    assert set(variables) == {"params", *(["batch_stats"] if normalised else [])}
    assert (
        sum(x.size for x in jax.tree.leaves(variables["params"])) == reference["params"] - left_out
    )
    back = to_torch(name, variables, num_classes=classes)
    assert set(back) == set(weights)
    for key, array in weights.items():
        np.testing.assert_array_equal(back[key], array, err_msg=key)
        assert back[key].dtype == array.dtype


def test_the_state_dict_may_be_in_any_order_and_without_counters(weights):
    counters = [key for key in weights if key.endswith("num_batches_tracked")]
    assert len(counters) == 39
    shuffled = {k: v for k, v in reversed(weights.items()) if k not in counters}
    for one, other in zip(
        jax.tree.leaves(from_torch(PLAIN, weights)),
        jax.tree.leaves(from_torch(PLAIN, shuffled)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, ml_dtypes.bfloat16])
def test_variables_have_the_dtype_that_is_asked_for(weights, dtype):
    leaves = jax.tree.leaves(from_torch(PLAIN, weights, dtype=dtype))
    assert {leaf.dtype for leaf in leaves} == {np.dtype(dtype)}


def test_half_precision_is_read(weights):
    halves = {k: v.astype(np.float16) if v.ndim else v for k, v in weights.items()}
    kernel = from_torch(PLAIN, halves)["params"]["stem_conv"]["kernel"]
    np.testing.assert_array_equal(
        kernel, halves["features.conv0.weight"].transpose(2, 3, 1, 0).astype(np.float32)
    )


def test_networks_for_other_images_and_classes():
    variables = any_variables(create_model(PLAIN, 7), (8, 8, 1))
    told = {"num_classes": 7, "input_shape": (8, 8, 1)}
    state_dict = to_torch(PLAIN, variables, **told)
    assert state_dict["features.conv0.weight"].shape == (24, 1, 3, 3)
    back = from_torch(PLAIN, state_dict, **told)
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    assert "'features.conv0.weight' has the shape (24, 1, 3, 3)" in refusal(
        state_dict, num_classes=7
    )


def test_overrides_reach_the_network():
    given = {"topology": "sparse", "stem_features": 12}
    variables = any_variables(create_model("densenet_bc16_k4", **given), (32, 32, 3))
    state_dict = to_torch("densenet_bc16_k4", variables, **given)
    jax.tree.map(
        np.testing.assert_array_equal,
        from_torch("densenet_bc16_k4", state_dict, **given),
        variables,
    )
    refusal(state_dict, "densenet_bc16_k4")


def test_missing_weights_are_counted_and_named(weights):
    missing = ["classifier.linear.bias", "features.dense-stage-1.block-3.conv1.weight"]
    message = refusal({k: v for k, v in weights.items() if k not in missing})
    assert "2 weights of 'densenet40_k12' are missing" in message
    assert all(key in message for key in missing)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("features.dense-stage-1.block-13.conv1.weight", "features.dense-stage-1.block-12.conv1"),
        ("features.conv9.weight", "features.conv0.weight"),
        ("module.features.conv0.weight", "features.conv0.weight"),
        ("features.conv0.weight_g", "features.conv0.weight"),
        ("features.conv0.bias", "features."),
        ("features.conv0.num_batches_tracked", "features."),
        ("num_batches_tracked", ""),
        ("zzz", "allowed: classifier.linear.bias, "),
    ],
)
def test_an_entry_that_has_no_place_is_named(weights, name, nearest):
    message = refusal({**weights, name: np.zeros((1, 1, 1, 1))})
    assert repr(name) in message and nearest in message


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("features.conv0.weight", (24, 3, 5, 5), "(24, 3, 3, 3)"),
        ("features.conv0.weight", (3, 24, 3, 3), "(24, 3, 3, 3)"),
        ("features.conv0.weight", (24, 27), "(24, 3, 3, 3)"),
        ("classifier.linear.weight", (100, 456), "(10, 456)"),
        ("classifier.linear.weight", (456, 10), "(10, 456)"),
        ("classifier.linear.bias", (100,), "(10,)"),
        ("features.norm_last.running_var", (3,), "(456,)"),
        ("features.norm_last.running_var", (), "(456,)"),
    ],
)
def test_an_entry_of_another_shape_is_named_with_both(weights, name, shape, wanted):
    message = refusal({**weights, name: np.zeros(shape)}, num_classes=10)
    assert repr(name) in message
    assert str(shape) in message
    assert wanted in message


@pytest.mark.parametrize(
    ("key", "numbers", "said"),
    [
        ("classifier.linear.bias", {3: np.nan}, "finite as float32"),
        ("classifier.linear.bias", {3: np.inf}, "finite as float32"),
        ("classifier.linear.bias", {3: 1e300}, "finite as float32"),
        ("features.norm_last.running_mean", {0: -np.inf}, "finite as float32"),
        ("features.norm_last.running_var", {0: -1e-3}, "variances, which are at least 0"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_numbers_that_no_network_can_have_are_named(weights, key, numbers, said):
    value = weights[key].astype(np.float64)
    value[[*numbers]] = [*numbers.values()]
    message = refusal({**weights, key: value})
    assert repr(key) in message and said in message


def test_numbers_are_finite_in_the_dtype_that_is_asked_for(weights):
    key = "classifier.linear.bias"
    large = {**weights, key: np.full(10, 1e300)}
    assert from_torch(PLAIN, large, dtype=np.float64)["params"]["classifier"]["bias"][0] == 1e300
    assert "finite as bfloat16" in refusal(large, dtype="bfloat16")


@pytest.mark.parametrize("dtype", ["zzz", np.int32, "bool", complex, 3])
def test_a_dtype_that_is_not_floating(weights, dtype):
    assert "dtype must be a floating-point one" in refusal(weights, dtype=dtype)


@pytest.mark.parametrize("given", [None, 3, "weights.pth", [1]])
def test_what_is_no_mapping(given):
    assert "state_dict must be arrays by name" in refusal(given)
    assert "variables must be arrays by name" in one_line_error(to_torch, PLAIN, given)


def test_what_is_no_array_is_named(weights):
    ragged = [[1.0], [1.0, 2.0]]
    key = "classifier.linear.weight"
    assert f"{key!r} is no array" in refusal({**weights, key: ragged})
    variables = from_torch(PLAIN, weights)
    variables["params"]["classifier"]["kernel"] = ragged
    message = one_line_error(to_torch, PLAIN, variables)
    assert "'params/classifier/kernel' is no array" in message


def test_variables_may_have_any_keys(weights):
    variables = {**from_torch(PLAIN, weights), 3: {4: np.zeros(1)}}
    assert "'3/4'" in one_line_error(to_torch, PLAIN, variables)


@pytest.mark.parametrize("shape", [(32, 32), (32, 32, 0), 32])
def test_a_shape_that_no_images_have(weights, shape):
    assert "input_shape" in refusal(weights, input_shape=shape)


@pytest.mark.parametrize("value", [np.zeros(10, np.int8), np.full(10, "0.1"), [None] * 10])
def test_an_entry_that_holds_no_real_numbers_is_named(weights, value):
    message = refusal({**weights, "classifier.linear.bias": value})
    assert "'classifier.linear.bias' must hold floating-point numbers" in message


def test_weights_of_another_network_do_not_fit(weights):
    refusal(weights, "sparsenet40_k12")
    refusal(weights, "densenet_bc40_k12")
    refusal({}, PLAIN)
    assert "needs (100,)" in refusal(weights, num_classes=100)


def test_a_network_that_nobody_else_has(weights):
    assert "'preact_resnet20'" in refusal(weights, "preact_resnet20")
    # Of y_0 the reference has no projection, for it has no sums.
    assert "'densenet40_k12'" in refusal(weights, aggregation="sum")


def found(name, **overrides):
    """The dialects in which a network's weights can be written; None if there is no one."""
    try:
        # No dialect is "", which is told before any weight is looked at.
        to_torch(name, {}, dialect="", **overrides)
    except UserError as error:
        message = str(error)
    if "no other implementation's names are known" in message:
        return None
    return message.partition("; allowed: ")[2].split(", ")


DEEPER = {"stage_depths": (3, 3), "base_width": 8}
RES2NET_LIKE = {**DEEPER, "imagenet_stem": False}
DENSENET, HCGNET, SEQRESNET = "densenet_bc16_k4", "hcgnet_n2_2_2_k4", "seqresnet_k8_r1_n1"
WINDOW = {"topology": "windowed", "topology_args": {"window": 1}}


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("resnet_dense_cifar", DEEPER),
        ("dsnet_cifar_noweight", {"stage_depths": (2, 2)}),
        ("resnet_cifar", {**DEEPER, "topology": "dense", "aggregation": "mean"}),
        ("resnet_cifar", {**DEEPER, "shortcut_sources": "blocks"}),
        ("resnet_cifar", {**DEEPER, "inner_shortcuts": True, "shortcut_weights": False}),
        ("resnet20_cifar", {}),
        ("res2net", {**RES2NET_LIKE, "scale": 4, "scale_topology": "dense"}),
        ("res2net", {**RES2NET_LIKE, "scale": 4, "opening_pool": False}),
        ("res2net", {**RES2NET_LIKE, "scale": 4, "topology": "dense"}),
        (DENSENET, WINDOW),
        (DENSENET, {"topology": ["dense", "sparse", "dense"]}),
        (DENSENET, {"aggregation": "mean", **WINDOW}),
        (DENSENET, {"pool": "flatten"}),
        ("sparsenet_bc28_k4", {"topology_args": {"base": 3}}),
        pytest.param("efficientnet_b0", {"topology": "dense"}, marks=pytest.mark.slow),
        pytest.param("micro_dense_efficientnet_b0", {}, marks=pytest.mark.slow),
        pytest.param(HCGNET, {"topology": "sparse"}, marks=pytest.mark.slow),
        (HCGNET, {"gate_activation": "relu"}),
        ("resnet_cifar", {**DEEPER, "attention": "gates"}),
        ("resnet_cifar", {**DEEPER, "dynamic_regularisation": True, "branch_scale": 0.5}),
        (SEQRESNET, {"aggregation": "mean"}),
        (SEQRESNET, {"topology": "plain"}),
        (SEQRESNET, {"topology": ["dense", "windowed", "windowed"]}),
    ],
)
def test_a_network_that_is_another_function_elsewhere_has_no_names(name, overrides):
    assert found(name, **overrides) is None


@pytest.mark.parametrize(
    ("name", "overrides", "dialects"),
    [
        ("resnet_cifar", DEEPER, ["timm", "torchvision"]),
        ("sparsenet121_k32", {}, ["reference"]),
        ("resnet_cifar", {**DEEPER, "aggregation": "mean"}, ["timm", "torchvision"]),
        ("resnet20_cifar", {"padded": False}, ["timm", "torchvision"]),
        ("resnet_dense_cifar", {"stage_depths": (2, 1)}, ["timm", "torchvision"]),
        ("res2net", {**RES2NET_LIKE, "scale": 4}, ["timm"]),
        ("res2net", {**RES2NET_LIKE, "scale": 3, "scale_topology": "dense"}, ["timm"]),
        (
            DENSENET,
            {"topology": "windowed", "topology_args": {"window": 3}},
            ["reference", "timm", "torchvision", "torchvision_dotted"],
        ),
        (DENSENET, {"topology": "sparse"}, ["reference"]),
        (SEQRESNET, {"topology": "dense"}, ["reference"]),
        (HCGNET, {}, ["reference"]),
    ],
)
def test_a_network_that_is_the_same_function_elsewhere_has_names(name, overrides, dialects):
    assert found(name, **overrides) == ["aggnets", *dialects]


def test_every_network_has_names_of_its_own():
    name, overrides = "dsnet_cifar", {"stage_depths": (2, 2), "width": 25}
    assert found(name, **overrides) is None
    variables = any_variables(create_model(name, **overrides), (32, 32, 3))
    state_dict = to_torch(name, variables, dialect="aggnets", **overrides)
    assert state_dict["stem_conv.weight"].shape[1:] == (3, 3, 3)
    again = from_torch(name, state_dict, **overrides)
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_weights_of_plain_shortcuts_are_not_those_of_dense_ones():
    plain = create_model("resnet_cifar", **DEEPER)
    state_dict = to_torch("resnet_cifar", any_variables(plain, (32, 32, 3)), **DEEPER)
    assert "no other implementation's names are known for 'resnet_dense_cifar'" in refusal(
        state_dict, "resnet_dense_cifar", **DEEPER
    )


def test_an_unknown_dialect_names_those_there_are(weights):
    variables = from_torch(PLAIN, weights)
    message = one_line_error(to_torch, PLAIN, variables, dialect="torchvison")
    assert "dialect of 'densenet40_k12' 'torchvison'; nearest: torchvision" in message


def test_variables_of_another_network_are_not_written(weights):
    variables = from_torch(PLAIN, weights)
    assert "with 100 classes" in one_line_error(to_torch, PLAIN, variables, num_classes=100)
    assert "missing" in one_line_error(to_torch, PLAIN, {"params": variables["params"]})
    more = {**variables, "ema": {"decay": np.zeros(())}}
    assert "'ema/decay'" in one_line_error(to_torch, PLAIN, more)


def test_dialects_name_the_same_weights_differently(weights):
    variables = from_torch(PLAIN, weights)
    paths = traverse_util.flatten_dict(variables, sep="/")
    for dialect, block in {
        "reference": r"features\.dense-stage-\d\.block-\d+\.",
        "torchvision": r"features\.denseblock\d\.denselayer\d+\.",
    }.items():
        state_dict = to_torch(PLAIN, variables, dialect=dialect)
        assert len(state_dict) == len(paths) + 39
        assert sum(bool(re.match(block, key)) for key in state_dict) == 36 * 6


def fpnasnet_shapes():
    """Names and shapes of the convolutions and the classifier of the authors' FPNASNet."""
    shapes = {
        "features.0.0": (34, 3, 3, 3),
        "features.1.0": (34, 1, 3, 3),
        "features.1.3": (24, 34, 1, 1),
    }
    inputs = 24
    for n, (width, expansion, stride, shortcut, split) in enumerate(fpnasnet.ROWS, start=2):
        block, left = f"features.{n}", inputs // 2 if split else 0
        i, o = inputs - left, width - left
        shapes[f"{block}.conv.0"] = (expansion * i, i, 1, 1)
        shapes[f"{block}.conv.3"] = (expansion * i, 1, 3, 3)
        shapes[f"{block}.conv.6"] = (o, expansion * i, 1, 1)
        if split and stride > 1:
            shapes[f"{block}.splitSeq.0"] = (left, 1, 3, 3)
            shapes[f"{block}.splitSeq.3"] = (left, left, 1, 1)
        if shortcut and (stride > 1 or i != o):
            shapes[f"{block}.shortcutSeq.0"] = (o, i, 1, 1)
        inputs = width
    return {**shapes, "features.18.0": (1280, 320, 1, 1), "classifier.1": (1000, 1280)}


@pytest.mark.slow
def test_fpnasnet_has_the_names_of_its_authors():
    variables = any_variables(create_model("fpnasnet"), (32, 32, 3))
    written = to_torch("fpnasnet", variables)
    kernels = {
        name.removesuffix(".weight"): value.shape
        for name, value in written.items()
        if name.endswith(".weight") and value.ndim > 1
    }
    assert kernels == fpnasnet_shapes()
    # A norm comes right behind each convolution.
    for name, (features, *_) in kernels.items():
        *place, index = name.split(".")
        if name != "classifier.1":
            assert written[".".join([*place, str(int(index) + 1), "running_var"])].size == features
    read = from_torch("fpnasnet", written)
    jax.tree.map(np.testing.assert_array_equal, read, variables)
