"""Weights from the reference's names, and what is told when they do not fit."""

import ast
import inspect
import re

import jax
import numpy as np
import pytest
from flax import traverse_util

from aggnets_jax import convert, create_model
from aggnets_jax.convert import from_torch
from aggnets_jax.errors import UserError
from tests.models import golden

SHAPE = (32, 32, 3)


@pytest.fixture(scope="module")
def plain():
    reference = golden.load("densenet40_k12_c10")
    return create_model(reference["model"], 10), golden.state_dict(reference["state_dict"])


def one_line_error(*arguments):
    with pytest.raises(UserError) as caught:
        from_torch(*arguments)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def reference_name(path):
    """The reference's name of `params/stage1/layer2/conv1/kernel`."""
    _, *module, leaf = path.split("/")
    leaf = {
        "kernel": "weight",
        "scale": "weight",
        "mean": "running_mean",
        "var": "running_var",
    }.get(leaf, leaf)
    module = "/".join(module)
    for pattern, name in [
        (r"stem_conv", "features.conv0"),
        (r"head_norm", "features.norm_last"),
        (r"classifier", "classifier.linear"),
        (r"transition(\d)/norm", "features.transition-{}.bn1"),
        (r"transition(\d)/conv", "features.transition-{}.conv1"),
        (r"stage(\d)/layer(\d+)/norm(\d)", "features.dense-stage-{}.block-{}.bn{}"),
        (r"stage(\d)/layer(\d+)/conv(\d)", "features.dense-stage-{}.block-{}.conv{}"),
    ]:
        if match := re.fullmatch(pattern, module):
            stage, *others = [int(group) for group in match.groups()] or [0]
            return f"{name.format(stage - 1, *others)}.{leaf}"
    raise AssertionError(path)


@pytest.mark.parametrize(
    "file", [file for file in golden.FILES if file.startswith(("densenet", "sparsenet"))]
)
def test_every_weight_arrives_once_and_can_be_taken_back(file):
    reference = golden.load(file)
    model = create_model(reference["model"], reference["num_classes"])
    weights = golden.state_dict(reference["state_dict"])
    variables = from_torch(model, weights, tuple(reference["input"][1:]))
    assert set(variables) == {"params", "batch_stats"}
    back = {}
    for path, array in traverse_util.flatten_dict(variables, sep="/").items():
        if path.endswith("/kernel"):
            array = array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)
        back[reference_name(path)] = array
    expected = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    assert set(back) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)
        assert back[name].dtype == array.dtype
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == reference["params"]


def test_missing_weights_are_counted_and_the_first_is_named(plain):
    model, weights = plain
    del (weights := dict(weights))["features.dense-stage-1.block-3.conv1.weight"]
    del weights["classifier.linear.bias"]
    message = one_line_error(model, weights, SHAPE)
    assert "2 weights are missing" in message
    assert "params/classifier/bias" in message


def test_weight_of_a_layer_that_is_not_there_names_the_nearest(plain):
    model, weights = plain
    extra = {"features.dense-stage-1.block-13.conv1.weight": np.zeros((12, 24, 3, 3))}
    message = one_line_error(model, {**weights, **extra}, SHAPE)
    assert "features.dense-stage-1.block-13.conv1.weight" in message
    assert "nearest: params/stage2/layer" in message


@pytest.mark.parametrize(
    "name", ["features.conv9.weight", "weight", "module.features.conv0.weight"]
)
def test_weight_of_an_unknown_module_is_named(plain, name):
    model, weights = plain
    message = one_line_error(model, {**weights, name: np.zeros((1, 1, 1, 1))}, SHAPE)
    assert repr(name) in message


def test_unknown_kind_of_weight_is_named_with_what_is_allowed(plain):
    model, weights = plain
    message = one_line_error(model, {**weights, "features.conv0.weight_g": np.zeros(3)}, SHAPE)
    assert "'features.conv0.weight_g'" in message
    assert "allowed: weight, bias" in message


@pytest.mark.parametrize(
    ("name", "shape", "here"),
    [
        ("features.conv0.weight", (24, 3, 5, 5), "(5, 5, 3, 24)"),
        ("features.conv0.weight", (3, 24, 3, 3), "(3, 3, 24, 3)"),
        ("features.conv0.weight", (24, 27), "(27, 24)"),
        ("classifier.linear.weight", (100, 456), "(456, 100)"),
        ("classifier.linear.bias", (100,), "(100,)"),
        ("features.norm_last.running_var", (3,), "(3,)"),
    ],
)
def test_weight_of_another_shape(plain, name, shape, here):
    model, weights = plain
    message = one_line_error(model, {**weights, name: np.zeros(shape)}, SHAPE)
    assert repr(name) in message
    assert str(shape) in message
    assert here in message


def test_weights_of_another_network_do_not_fit(plain):
    one_line_error(create_model("sparsenet40_k12"), plain[1], SHAPE)
    one_line_error(create_model("densenet40_k12", 100), plain[1], SHAPE)
    one_line_error(create_model("densenet_bc40_k12"), plain[1], SHAPE)


def test_network_without_a_reference(plain):
    message = one_line_error(create_model("preact_resnet20"), plain[1], SHAPE)
    assert "PreActResNet" in message


def test_nothing_here_unpickles():
    imported = set()
    for node in ast.walk(ast.parse(inspect.getsource(convert))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert imported
    assert not imported & {"pickle", "torch", "dill", "joblib", "cloudpickle", "shelve"}
