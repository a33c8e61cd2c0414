"""Several labels for each image: the metrics, and a run on scenes of digits."""

import json

import numpy as np
import pytest

from aggnets_jax import config as config_lib
from aggnets_jax.data.objects import read_annotations
from aggnets_jax.errors import UserError
from aggnets_jax.evaluate import evaluate_checkpoint
from aggnets_jax.predict import predict
from aggnets_jax.tasks import get_task
from aggnets_jax.tasks.multilabel import multilabel_metrics
from aggnets_jax.train import train_and_evaluate
from tests import runs


def test_metrics_of_three_images():
    """Worked out by hand; no image has the last class, which counts in F1 and the loss alone."""
    logits = np.array([[3.0, -1.0, -2.0], [1.0, 2.0, 1.0], [2.0, 1.0, -1.0]])
    targets = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]], bool)
    metrics = multilabel_metrics(logits, targets)
    # Both images of class 0 come first, then both of class 1.
    assert metrics["mAP"] == pytest.approx(1)
    # Found: class 0 in all, class 1 in two, class 2 in one; four of the six are right, of four.
    assert metrics["F1"] == pytest.approx(2 * 4 / (6 + 4))
    assert metrics["F1_of_classes"] == pytest.approx((2 * 2 / (3 + 2) + 1) / 2)
    p = 1 / (1 + np.exp(-logits))
    assert metrics["loss"] == pytest.approx(-np.log(np.where(targets, p, 1 - p)).mean())
    turned = multilabel_metrics(-logits, targets)
    # Class 0: right are places 2 and 3 of three; class 1: also.
    assert turned["mAP"] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_a_single_class_has_the_f1_of_its_images_alone():
    logits = np.array([[1.0, -1.0], [1.0, -1.0], [-1.0, -2.0], [-1.0, -1.0]])
    targets = np.array([[1, 0], [0, 0], [0, 0], [0, 0]], bool)
    for classes in (slice(1), slice(2)):  # without and with a class that no image has
        metrics = multilabel_metrics(logits[:, classes], targets[:, classes])
        assert metrics["F1"] == metrics["F1_of_classes"] == pytest.approx(2 / 3)
        assert metrics["mAP"] == pytest.approx(1 / 2)


def test_metrics_without_any_class():
    metrics = multilabel_metrics(np.full((2, 2), -1.0), np.zeros((2, 2), bool))
    assert (metrics["mAP"], metrics["F1"], metrics["F1_of_classes"]) == (0, 0, 0)
    assert metrics["loss"] == pytest.approx(np.log(1 + np.exp(-1)))


def tiny_labels(scenes_dir, **changes):
    return {
        "task": "multilabel",
        "task_args": {"size": 64},
        "total_steps": 4,
        "log_every_steps": 2,
        "eval_every_steps": 2,
        "checkpoint_every_steps": 2,
        "batch_size": 4,
        "eval_batch_size": 4,
        "optimizer": "adamw",
        "lr": 0.003,
        "schedule": "constant",
        "model": {
            "name": "sparsenet_imagenet",
            "args": {"growth_rate": 8, "stage_depths": (1, 1), "stem_features": 8},
        },
        "data": {"name": "coco_folder", "data_dir": scenes_dir},
        **changes,
    }


def test_a_run_has_map_and_f1_and_is_resumed(scenes_dir, tmp_path):
    summary = train_and_evaluate(tiny_labels(scenes_dir), tmp_path / "whole")
    assert summary["final"]["examples"] == 6
    assert {"mAP", "F1", "F1_of_classes", "loss"} < set(summary["final"])
    train = [line for line in runs.metric_lines(tmp_path / "whole") if "train/F1" in line]
    assert [line["step"] for line in train] == [2, 4]
    assert evaluate_checkpoint(tmp_path / "whole") == summary["final"]
    config = config_lib.to_json(config_lib.resolve(tiny_labels(scenes_dir)))
    for steps in (2, 4):
        resumed = train_and_evaluate(
            {**config, "total_steps": steps}, tmp_path / "parts", allow_config_change=True
        )
    assert resumed["fingerprint"] == summary["fingerprint"]
    with pytest.raises(UserError, match="predict is for classification and detection"):
        predict(tmp_path / "whole", [str(scenes_dir)])


def test_targets_are_the_classes_of_the_objects(scenes_dir):
    config = config_lib.resolve(tiny_labels(scenes_dir))
    task = get_task(config)
    info = task.describe(config)
    batch = {
        "image": np.full((2, 64, 64, 3), 255, np.uint8),
        "size": np.array([[64, 32], [0, 0]], np.int32),
        "label": np.array([[3, 5, 3, 0], [0, 0, 0, 0]], np.int32),
        "valid": np.array([[True, True, True, False], [False] * 4]),
    }
    network = task.make_network(config, info.num_classes)
    prepare = task.make_prepare(network, task.make_preprocess(config, info), config)
    examples = prepare(batch, 0)
    assert np.flatnonzero(examples.targets[0]).tolist() == [3, 5]
    assert not np.any(examples.targets[1])
    assert examples.whole.tolist() == [True, False]
    assert np.all(np.asarray(examples.images)[0, :, :32] > 0)
    assert not np.any(examples.images[0, :, 32:])


def test_evaluation_reads_the_classes_of_the_annotations(scenes_dir):
    """A perfect guess from the file has mAP and F1 of 1."""
    config = config_lib.resolve(tiny_labels(scenes_dir))
    task = get_task(config)
    split = read_annotations(scenes_dir, "test", masks=False, skip=False)
    ids = list(split.categories)
    gathered = task.start_gathering(type("Batches", (), {"data": split}))
    file = json.loads(split.file.read_text())
    for index, image in enumerate(split.images):
        has = {
            each["category_id"]
            for each in file["annotations"]
            if each["image_id"] == image["id"] and not each["iscrowd"]
        }
        gathered.logits[index] = np.where(np.isin(ids, list(has)), 9.0, -9.0)
    found = task.finish(gathered)
    assert found.examples == 6
    assert (found.metrics["mAP"], found.metrics["F1"]) == (1, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"name": "coco_folder", "mixup": 0.1}}, "config.data.mixup is not for the task"),
        ({"data": {"resident": "always"}}, "config.data.resident='always' is not for the task"),
        ({"task_args": {"size": 0}}, "size must be a whole number of at least 1"),
        ({"loss": "cross_entropy"}, "unknown loss of the task 'multilabel' 'cross_entropy'"),
    ],
)
def test_what_is_refused(changes, message, scenes_dir, tmp_path):
    given = tiny_labels(scenes_dir)
    given["data"] |= changes.pop("data", {})
    with pytest.raises(UserError, match=message):
        train_and_evaluate({**given, **changes}, tmp_path / "run")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_without_finite_logits_nothing_is_known(value):
    metrics = multilabel_metrics(np.array([[value, 0], [0, 0]]), np.eye(2, dtype=bool))
    assert np.isnan([*metrics.values()]).all()
