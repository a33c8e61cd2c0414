"""Weights of detectors by torchvision's names; the golden files compare what they compute."""

import re

import jax
import numpy as np
import pytest

from aggnets_jax.convert.detectors import (
    COCO_IDS,
    detector_from_torch,
    detector_names,
    detector_to_torch,
)
from aggnets_jax.detection import create_detector
from aggnets_jax.errors import UserError
from tests.marks import mostly_slow

SIZES = {"pyramid": 4, "hidden": 8, "mask": 4}


def make(num_classes=4, **fields):
    fields = {"conventions": "torchvision", "sizes": SIZES, **fields}
    return create_detector("mask_rcnn_fpn", "resnet18", num_classes, **fields)


def weights(detector):
    random = np.random.default_rng(0)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    sizes = jax.ShapeDtypeStruct((1, 2), np.int32)
    variables = jax.eval_shape(detector.init, jax.random.key(0), images, sizes)
    return jax.tree.map(lambda x: random.uniform(0.5, 1, x.shape).astype(np.float32), variables)


@pytest.fixture(scope="module")
def variables():
    return weights(make())


@pytest.fixture(scope="module")
def state_dict(variables):
    return detector_to_torch(make(), variables)


def test_weights_go_to_torchvision_and_back(variables, state_dict):
    assert state_dict["roi_heads.mask_predictor.conv5_mask.weight"].shape == (4, 4, 2, 2)
    assert state_dict["roi_heads.box_head.fc6.weight"].shape == (8, 4 * 49)
    assert state_dict["backbone.body.layer2.0.downsample.0.weight"].shape == (128, 64, 1, 1)
    back = detector_from_torch(make(), state_dict)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


@pytest.mark.slow
def test_the_published_files_older_names_are_read(variables):
    state_dict = detector_to_torch(make(), variables)
    older = {}
    for key, value in state_dict.items():
        key = re.sub(r"(_blocks\.\d)\.0\.", r"\1.", key)
        key = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        key = re.sub(r"mask_head\.(\d)\.0\.", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}.", key)
        older[key] = value
    assert older.keys() != state_dict.keys()
    jax.tree.map(np.testing.assert_array_equal, detector_from_torch(make(), older), variables)


@pytest.mark.slow
def test_the_80_classes_are_picked_from_the_91_ids():
    assert len(COCO_IDS) == 80
    state_dict = detector_to_torch(make(90), weights(make(90)))
    picked = detector_from_torch(make(80), state_dict)["params"]["boxes"]
    scores = state_dict["roi_heads.box_predictor.cls_score.bias"]
    np.testing.assert_array_equal(picked["scores"]["bias"], scores[[0, *COCO_IDS]])
    deltas = state_dict["roi_heads.box_predictor.bbox_pred.bias"].reshape(91, 4)
    wanted = deltas[[0, *COCO_IDS]].ravel()
    np.testing.assert_array_equal(picked["deltas"]["bias"], wanted)


@pytest.mark.slow
def test_weights_for_another_epsilon_normalise_as_there(variables):
    state_dict = detector_to_torch(make(), variables)
    state_dict["backbone.body.bn1.running_var"] = np.full(64, 1e-5)
    converted = detector_from_torch(make(), state_dict, epsilon=0.0)
    here = converted["params"]["backbone"]["stem_norm"]["scale"] / np.sqrt(2e-5)
    there = state_dict["backbone.body.bn1.weight"] / np.sqrt(1e-5)
    np.testing.assert_allclose(here, there, rtol=1e-6)


@mostly_slow(
    ("change", "message"),
    [
        (lambda d: d.pop("rpn.head.cls_logits.bias"), "1 weights .* first 'rpn.head.cls_logits"),
        (lambda d: d.update({"rpn.head.cls_logit.bias": 0}), "nearest: rpn.head.cls_logits.bias"),
        (lambda d: d.update({"rpn.head.cls_logits.bias": np.zeros(4)}), r"shape \(4,\), .*\(3,\)"),
        (lambda d: d.update({"rpn.head.cls_logits.bias": np.full(3, np.nan)}), "finite"),
        (
            lambda d: d.update({"backbone.body.bn1.running_var": np.full(64, -1.0)}),
            "at least 0, got -1",
        ),
    ],
    quick=(0, 2),
)
def test_wrong_weights_are_named(state_dict, change, message):
    state_dict = dict(state_dict)
    change(state_dict)
    with pytest.raises(UserError, match=message):
        detector_from_torch(make(), state_dict)


def test_detectors_that_torchvision_has_not_are_refused():
    with pytest.raises(UserError, match="background is class 0"):
        detector_names(make(conventions="center"))
    with pytest.raises(UserError, match="must be a ResNet"):
        detector_names(
            create_detector("faster_rcnn_fpn", "dsnet50", conventions="torchvision", sizes=SIZES)
        )


def test_a_variance_of_0_without_an_epsilon_is_refused(state_dict):
    weights = {**state_dict, "backbone.body.bn1.running_var": np.zeros(64, np.float32)}
    with np.errstate(divide="ignore"), pytest.raises(UserError, match="finite as float32"):
        detector_from_torch(make(), weights, epsilon=0.0)
