"""Detection in the one loop: resumed to the bit, evaluated once on each image, learnt."""

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("pycocotools")

import jax
import jax.numpy as jnp
import safetensors.numpy

from aggnets_jax import config as config_lib
from aggnets_jax.benchmark.dry_run import dry_run
from aggnets_jax.config_fields.known_data import num_train
from aggnets_jax.convert import to_torch
from aggnets_jax.data.objects import read_annotations
from aggnets_jax.detection.coco import FIGURES, coco_figures
from aggnets_jax.errors import Diverged, UserError
from aggnets_jax.evaluate import evaluate, evaluate_checkpoint, make_eval_step
from aggnets_jax.main import main
from aggnets_jax.models import create_model
from aggnets_jax.runtime.mesh import batch_sharding, make_mesh, replicated
from aggnets_jax.tasks import get_task
from aggnets_jax.train import train_and_evaluate
from aggnets_jax.training.state import leaves_by_path
from aggnets_jax.workdir.divergence import check_evaluation
from aggnets_jax.workdir.restore import restore_network
from tests import runs
from tests.runtime.test_preemption import start_processes
from tests.tasks.detection_runs import tiny_detection

LOSSES = ("rpn_class", "rpn_box", "class", "box", "mask")


@pytest.fixture(scope="module")
def whole(scenes_dir, tmp_path_factory):
    """The workdir of an undisturbed run."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    train_and_evaluate(tiny_detection(scenes_dir), workdir)
    return workdir


def test_a_run_logs_losses_and_cocos_figures(whole):
    lines = runs.metric_lines(whole)
    train = [line for line in lines if "train/loss" in line]
    assert [line["step"] for line in train] == [1, 2, 3, 4]
    for line in train:
        parts = [line[f"train/{name}"] for name in LOSSES]
        np.testing.assert_allclose(sum(parts), line["train/loss"], rtol=1e-5)
        assert min(parts) >= 0
    evaluations = [line for line in lines if "eval/bbox_AP" in line]
    names = {f"eval/{kind}_{name}" for kind in ("bbox", "segm") for name in FIGURES}
    assert [set(line) - {"step"} for line in evaluations] == [names] * 2
    summary = runs.summary(whole)
    assert summary["final"]["examples"] == 6
    assert summary["network"]["links"] > 0


@pytest.mark.slow
def test_a_run_in_parts_is_the_same_to_the_bit(whole, scenes_dir, tmp_path):
    config = tiny_detection(scenes_dir)
    train_and_evaluate({**config, "total_steps": 2}, tmp_path / "parts")
    parts = train_and_evaluate(config, tmp_path / "parts", allow_config_change=True)
    assert parts["fingerprint"] == runs.summary(whole)["fingerprint"]
    assert runs.metrics(tmp_path / "parts") == runs.metrics(whole)


def test_an_evaluation_writes_results_with_the_same_figures(whole, scenes_dir, tmp_path):
    workdir = shutil.copytree(whole, tmp_path / "run")
    metrics = evaluate_checkpoint(workdir)
    final = runs.summary(whole)["final"]
    assert metrics == final
    results = json.loads((workdir / "results.json").read_text())
    truth = read_annotations(scenes_dir, "test", masks=True, skip=False).ground_truth()
    for kind in ("bbox", "segm"):
        for name, value in coco_figures(truth, results, kind).figures.items():
            assert value == pytest.approx(final[f"{kind}_{name}"], abs=1e-12)
    assert {each["category_id"] for each in results} <= set(range(1, 29, 3))
    for each in results:
        x, y, w, h = each["bbox"]
        image = truth["images"][each["image_id"] - 1]
        assert each["segmentation"]["size"] == [image["height"], image["width"]]
        assert min(x, y, w, h) >= 0
        assert x + w <= image["width"] + 0.2
        assert y + h <= image["height"] + 0.2


def test_the_ids_of_the_categories_are_in_the_checkpoint(whole):
    restored = restore_network(whole, "latest", replicated(make_mesh()))
    assert restored.info.category_ids == tuple(range(1, 29, 3))
    assert restored.info.class_names == tuple("0123456789")
    assert restored.info.image_shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.mixup": 1.0}, r"config\.data\.mixup is not for detection: it must be 0\.0"),
        ({"num_seeds": 2}, r"config\.num_seeds is not for detection"),
        ({"loss_args": {"gamma": 2.0}}, r"config\.loss_args is not for detection"),
        ({"data.resident": "always"}, r"config\.data\.resident='always' is not for detection"),
        ({"task_args.detector": "mask_rcnn"}, "unknown detector 'mask_rcnn'; nearest: mask_rcnn"),
        ({"task_args.conventions": "centre"}, "unknown conventions 'centre'; nearest: center"),
        ({"task_args.shorter": 64}, "task 'detection' has no argument 'shorter'; nearest: short"),
        ({"task_args.buckets": [[64, 65]]}, "multiples of 32, not"),
        (
            {"task_args.detector_args": {"froze": 1}},
            "detector 'mask_rcnn_fpn' has no argument 'froze'",
        ),
        ({"task_args.detector_args": {"samples": {"roi": 1}}}, "unknown number of samples 'roi'"),
        (
            {"task_args.detector_args": {"limits": [{"pre_nms": 1}] * 2}},
            "proposals is missing: post_nms",
        ),
        *(
            ({"task_args.detector_args": {argument: value}}, message)
            for argument, value, message in (
                ("conventions", "legacy", "no conventions: set config.task_args.conventions"),
                ("dtype", "bfloat16", "no dtype: set config.dtype"),
                ("levels", 3, "levels must be names of stages, got 3"),
                ("limits", 3, r"limits are \(training, evaluation\), got 3"),
                ("most", "5", "most must be a whole number of at least 1, got '5'"),
                ("candidates", 0, "candidates must be a whole number of at least 1"),
                ("loss_group", 0, "loss_group must be a whole number of at least 1"),
                ("least_score", "x", "least_score must be a number from 0 to 1"),
                ("nms_threshold", None, "nms_threshold must be a number from 0 to 1"),
                ("samples", {"rois": -1}, "samples: rois must be a whole number of at least 1"),
                ("sizes", {"finest": 0}, "sizes: finest must be a number at least 1"),
            )
        ),
        ({"data.name": "aggnets_digits"}, "unknown data set for detection"),
        ({"data.data_dir": None}, "coco_folder needs data_dir"),
        ({"data.train_split": "trian"}, "unknown split .*nearest: train"),
    ],
)
def test_configs_that_fit_no_detector(scenes_dir, changes, message):
    config = tiny_detection(scenes_dir)
    for field, value in changes.items():
        *groups, name = field.split(".")
        (config[groups[0]] if groups else config)[name] = value
    config = config_lib.resolve(config)
    with pytest.raises(UserError, match=message):
        task = get_task(config)
        task.make_network(config, task.describe(config).num_classes)


def test_a_data_set_of_objects_is_not_for_classification(scenes_dir):
    config = config_lib.resolve({"data": {"name": "coco_folder", "data_dir": scenes_dir}})
    message = "coco_folder has objects, not a class for each image: .* detection and multilabel"
    with pytest.raises(UserError, match=message):
        get_task(config).describe(config)


@pytest.mark.slow
def test_frozen_parts_are_neither_decayed_nor_clipped(scenes_dir):
    config = config_lib.resolve(
        tiny_detection(scenes_dir, detector_args={"frozen": 1, "trains_statistics": False})
    )
    task = get_task(config)
    model = task.make_network(config, 10)
    optimizer, _ = task.make_optimizer(model, config, 4, 2, (64, 64, 3))
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    params = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes)
    state = optimizer.init(params)
    gradients = jax.tree.map(lambda x: np.full(x.shape, 100, np.float32), shapes)
    updates, _ = optimizer.update(gradients, state, params)
    frozen = {"backbone/" + "/".join(path) for path in model.backbone.frozen_paths}
    by_path = leaves_by_path(updates)
    assert frozen < set(by_path)
    assert all((by_path[path] == 0).all() == (path in frozen) for path in by_path)
    # The norm is of trained parameters alone.
    trained = sum(x.size for path, x in by_path.items() if path not in frozen)
    step = 0.02 * (1 + 0.9) * (10 / np.sqrt(trained) + 1e-4)
    np.testing.assert_allclose(by_path["rpn/conv/bias"], -step, rtol=1e-4)


def started(config, workdir):
    """Return the variables of a run after its start, by path."""
    config = {**config, "total_steps": 1, "lr": 0.0, "weight_decay": 0.0, "eval_every_steps": 1}
    train_and_evaluate(config, workdir)
    return leaves_by_path(restore_network(workdir, "latest", replicated(make_mesh())).variables)


@pytest.mark.slow
def test_a_detector_starts_from_a_classifier_or_a_detector(whole, scenes_dir, tmp_path):
    config = tiny_detection(scenes_dir, detector_args={"frozen": 1, "trains_statistics": False})
    args = config["model"]["args"]
    network = create_model("sparsenet_imagenet", 7, pool="global", **args)
    images = np.zeros((1, 64, 64, 3), np.float32)
    variables = network.init(jax.random.key(5), images, train=False)
    weights = to_torch("sparsenet_imagenet", variables, num_classes=7, pool="global", **args)
    safetensors.numpy.save_file(
        {k: np.ascontiguousarray(v) for k, v in weights.items()}, tmp_path / "w.safetensors"
    )
    config["model"]["args"] = {**args, "pool": "global"}
    config["init_from"] = str(tmp_path / "w.safetensors")
    found = started(config, tmp_path / "from_file")
    given = leaves_by_path(variables)
    backbone = [path for path in found if "/backbone/" in path]
    assert backbone
    for path in backbone:
        np.testing.assert_array_equal(found[path], given[path.replace("backbone/", "", 1)])

    # Other classes: the predictors are new, all else is the other run's.
    folder = shutil.copytree(scenes_dir, tmp_path / "scenes")
    for file in (folder / "annotations").iterdir():
        content = json.loads(file.read_text())
        content["categories"] = [
            {"id": each["id"], "name": "even" if each["id"] % 2 else f"odd {each['id']}"}
            for each in content["categories"][:2]
        ]
        ids = {each["id"] for each in content["categories"]}
        content["annotations"] = [e for e in content["annotations"] if e["category_id"] in ids]
        file.write_text(json.dumps(content))
    config = tiny_detection(str(folder), init_from=str(whole))
    found = started(config, tmp_path / "from_run")
    given = leaves_by_path(restore_network(whole, "latest", replicated(make_mesh())).variables)
    for path, value in found.items():
        if any(f"/{part}/" in path for part in ("scores", "deltas", "masks")) and "rpn" not in path:
            assert value.shape != given[path].shape
        elif path.startswith("params"):
            np.testing.assert_array_equal(value, given[path])


@pytest.mark.slow
def test_accumulated_parts_bfloat16_and_boxes_alone_are_trained(scenes_dir, tmp_path):
    config = tiny_detection(scenes_dir, "faster_rcnn_fpn", total_steps=2, accumulation_steps=2)
    summary = train_and_evaluate({**config, "dtype": "bfloat16"}, tmp_path / "run")
    assert "segm_AP" not in summary["final"]
    lines = [line for line in runs.metric_lines(tmp_path / "run") if "train/loss" in line]
    for line in lines:
        parts = [line[f"train/{name}"] for name in LOSSES[:-1]]
        np.testing.assert_allclose(sum(parts), line["train/loss"], rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["replicated", "fsdp"])
def test_devices_and_processes_change_nothing_but_rounding(scenes_dir, tmp_path, sharding):
    config = tiny_detection(scenes_dir, total_steps=2, sharding=sharding)
    file = runs.write_config(tmp_path / "tiny.py", config)
    lines, results = [], []
    for name, start in (("alone", lambda *a: [runs.start(*a)]), ("two", start_processes)):
        workdir = tmp_path / name
        for arguments in ((f"--config={file}",), ("eval",)):
            ends = [runs.finish(p) for p in start(*arguments, f"--workdir={workdir}")]
            assert [(code, err) for code, _, err in ends] == [(0, "")] * len(ends)
        lines.append([x["train/loss"] for x in runs.metric_lines(workdir) if "train/loss" in x])
        results.append(json.loads((workdir / "results.json").read_text()))
        assert runs.summary(workdir)["final"]["examples"] == 6
    np.testing.assert_allclose(lines[0], lines[1], rtol=1e-3)
    images = [{each["image_id"] for each in found} for found in results]
    assert images[0] == images[1]


@pytest.mark.slow
def test_batches_of_several_sizes_have_a_program_each(scenes_dir, tmp_path, capsys):
    # One image of the test split is of 48x56 pixels, 64x75 as large as allowed.
    config = tiny_detection(scenes_dir, batch_size=1, eval_batch_size=2)
    config["task_args"] |= {"long": 96, "buckets": [[64, 64], [64, 96]]}
    config["data"]["train_split"] = "test"
    whole = train_and_evaluate(config, tmp_path / "whole")
    assert capsys.readouterr().out.count("step compiled for batches of another size") == 1
    assert whole["final"]["examples"] == 6
    train_and_evaluate({**config, "total_steps": 2}, tmp_path / "parts")
    parts = train_and_evaluate(config, tmp_path / "parts", allow_config_change=True)
    assert parts["fingerprint"] == whole["fingerprint"]
    assert runs.metrics(tmp_path / "parts") == runs.metrics(tmp_path / "whole")


@pytest.mark.slow
def test_weights_go_to_torchvisions_names_and_back(scenes_dir, tmp_path):
    config = tiny_detection(scenes_dir, total_steps=1)
    config["task_args"] |= {"conventions": "torchvision", "divisor": 32}
    config["model"] = {"name": "resnet18"}
    file = runs.write_config(tmp_path / "tiny.py", config)
    final = train_and_evaluate(config, tmp_path / "run")["final"]
    weights = f"{tmp_path}/weights.safetensors"
    assert main(["convert", f"--workdir={tmp_path}/run", f"--to_torch={weights}"]) == 0
    assert "roi_heads.mask_head.0.0.weight" in safetensors.numpy.load_file(weights)
    arguments = (f"--config={file}", f"--workdir={tmp_path}/back", f"--from_torch={weights}")
    assert main(["convert", *arguments]) == 0
    assert evaluate_checkpoint(tmp_path / "back") == {**final, "step": 0}
    other = (arguments[0], f"--workdir={tmp_path}/other", arguments[2], "--epsilon=0.5")
    assert main(["convert", *other]) == 0
    scale = "params/backbone/stem_norm/scale"
    own, changed = (
        leaves_by_path(
            restore_network(tmp_path / name, "latest", replicated(make_mesh())).variables
        )
        for name in ("back", "other")
    )
    assert (changed[scale] < own[scale]).all()


@pytest.mark.slow
def test_a_dry_run_needs_no_data(tmp_path):
    config = config_lib.resolve(tiny_detection(str(tmp_path)))
    config.data.name = "aggnets_digit_scenes"
    found = dry_run(config)
    assert found["params"] > 0
    assert found["temporary_bytes"] > 0


@pytest.mark.slow
def test_damaged_images_and_annotations_are_skipped_and_counted(scenes_dir, tmp_path):
    folder = shutil.copytree(scenes_dir, tmp_path / "scenes")
    (folder / "train" / "000001.png").write_bytes(b"no image")
    (folder / "test" / "000001.png").write_bytes(b"no image")
    config = tiny_detection(str(folder), total_steps=2)
    with pytest.raises(UserError, match="is damaged"):
        train_and_evaluate(config, tmp_path / "stops")
    config["data"]["damaged"] = "skip"
    summary = train_and_evaluate(config, tmp_path / "skips")
    assert (summary["final"]["examples"], summary["final"]["skipped"]) == (5, 1)
    lines = [line for line in runs.metric_lines(tmp_path / "skips") if "train/loss" in line]
    assert sum(line["train/skipped_images"] for line in lines) == 1


@pytest.mark.slow
def test_scenes_of_digits_are_learnt(tmp_path, optimised):
    config = config_lib.load(str(runs.ROOT / "configs/detection/digit_scenes.py"))
    config.data.data_dir = str(tmp_path)
    assert get_task(config).describe(config).num_train == num_train(config)
    final = train_and_evaluate(config, tmp_path / "run")["final"]
    assert final["bbox_AP"] >= 0.45
    assert final["bbox_AP50"] >= 0.75
    assert final["segm_AP"] >= 0.45


@pytest.mark.slow
def test_a_detector_that_has_diverged_has_no_average_precision(finished_detection):
    """No score of it is above a threshold: the average precision would be 0."""
    restored = restore_network(finished_detection, "latest")
    rpn = restored.variables["params"]["rpn"]["conv"]
    rpn["kernel"] = jnp.full_like(rpn["kernel"], jnp.inf)
    task, mesh = get_task(restored.config), make_mesh()
    batches = task.eval_data(restored.config, batch_sharding(mesh))
    preprocess = task.make_preprocess(restored.config, restored.info)
    step = make_eval_step(task, restored.model, preprocess, 1, mesh)
    with pytest.raises(Diverged, match="of the evaluation is not finite at step 1"):
        check_evaluation(task, {"step": 1, **evaluate(task, step, restored.variables, batches)})
