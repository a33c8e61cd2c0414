"""Every file in configs/ is what it says, and trains."""

import ast
import functools
import json
import re

import pytest

from aggnets_jax import config as config_lib
from aggnets_jax.data.objects.scenes import write_scenes
from aggnets_jax.errors import UserError
from aggnets_jax.models.registry import find_family
from aggnets_jax.reports import experiments
from aggnets_jax.tasks import get_task
from aggnets_jax.train import train_and_evaluate
from aggnets_jax.training.optimizer import make_optimizer
from aggnets_jax.training.regularisation_schedules import make_strength
from tests import runs
from tests.data.official_formats import (
    prepare_small_cifar10,
    prepare_small_cifar100,
    prepare_small_imagenet,
)
from tests.models.tiny import TINY
from tests.tasks import detection_runs

FILES = sorted(str(file.relative_to(runs.ROOT)) for file in (runs.ROOT / "configs").rglob("*.py"))
CLASSES = {
    "cifar10": 10,
    "cifar100": 100,
    "imagenet2012": 1000,
    "aggnets_digits": 10,
    "aggnets_mnist5k": 10,
    "aggnets_digit_scenes": 10,
    "coco_folder": 80,
}


@functools.cache
def configs(file):
    """The configs of a file, or of each of its rows, by what --config takes."""
    rows = config_lib.rows(runs.ROOT / file)
    names = [f"{file}:{row}" for row in rows] or [file]
    return {name: config_lib.load(str(runs.ROOT / name)) for name in names}


def docstring(file):
    return ast.get_docstring(ast.parse((runs.ROOT / file).read_text()))


LARGE = ("configs/hcgnet/table4.py", "configs/dsnet/table8.py")  # detectors: long to trace


@pytest.mark.parametrize(
    "file", [pytest.param(f, marks=pytest.mark.slow) if f in LARGE else f for f in FILES]
)
def test_every_row_has_a_network_a_schedule_and_data(file):
    for name, config in configs(file).items():
        classes = CLASSES[config.data.name]
        assert get_task(config).make_network(config, classes).num_classes == classes, name
        images = experiments.num_train(config)
        steps, steps_per_epoch = config_lib.total_steps(config, images), images / config.batch_size
        _, schedule = make_optimizer(config, steps, steps_per_epoch)
        rates = [float(schedule(step)) for step in (0, steps // 3, steps - 1)]
        highest = config.lr * (config.batch_size / (config.lr_batch_size or config.batch_size))
        assert all(0 <= rate <= highest * (1 + 1e-6) for rate in rates), name
        assert max(rates) > highest / 10, name
        make_strength(config, steps, steps_per_epoch)


@pytest.mark.parametrize("file", sorted(set(FILES) - {"configs/default.py"}))
def test_docstring_has_a_command_that_runs_it(file):
    commands = re.findall(r"aggnets train --config=(\S+)", docstring(file))
    assert commands or file.startswith("configs/recipes/")
    assert set(commands) <= set(configs(file))


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_docstrings_of_experiments_say_what_they_cost(file):
    experiment = any(config.paper.source for config in configs(file).values())
    if not experiment and "Cost:" not in docstring(file):
        return
    costs = [experiments.training_cost(config) for config in configs(file).values()]
    ends = dict.fromkeys(f"{cost:.1e}".replace("e+", "e") for cost in (min(costs), max(costs)))
    assert f"Cost: {' to '.join(ends)} MACs." in docstring(file).splitlines()


@pytest.mark.parametrize("file", [file for file in FILES if file.count("/") == 2])
def test_experiments_say_what_they_reproduce_and_recipes_do_not(file):
    recipe = file.startswith(("configs/recipes/", "configs/detection/"))
    for name, config in configs(file).items():
        assert bool(config.paper.source) != recipe, name
        # A number, or a word on why there is none.
        assert recipe or config.paper.error is not None or config.paper.remark, name


@pytest.fixture(scope="module")
def all_data(tmp_path_factory):
    """All in the official formats, but for the digits, which are prepared when needed."""
    folder = tmp_path_factory.mktemp("all_data")
    write_scenes(folder / "scenes", {"train": 10, "test": 6})
    prepare_small_cifar10(folder, num_train=40, num_test=20)
    prepare_small_cifar100(folder, num_train=40, num_test=20)
    prepare_small_imagenet(folder, num_train=24, num_validation=10)
    return folder


def tiny(config, data_dir):
    """The config with a network of the same family that trains in seconds, for two steps."""
    if config.task == "detection":
        return tiny_detector(config, data_dir)
    family = find_family(config.model.name).name
    numbers, side = TINY[family]
    changes = {
        "total_steps": 2,
        "total_epochs": None,
        "eval_every_steps": 2,
        "checkpoint_every_steps": 2,
        "batch_size": 4 * config.data.repeats,
        "eval_batch_size": 20,
        "accumulation_steps": min(config.accumulation_steps, 2),
        "lr": 1e-3,  # such small batches lead astray
        "model": {
            **config.model.to_dict(),
            "name": family,
            "args": {**config.model.args, **numbers},
        },
        "data": {**config.data.to_dict(), "data_dir": str(data_dir)},
        "file": "",
        "paper": {},
    }
    if config.data.image_size is not None:
        changes["data"]["image_size"] = max(32, side)
        if config.progressive:
            changes["progressive"] = ((0.0, side), (0.5, max(32, side)))
    return config_lib.to_json(config_lib.resolve({**config.to_dict(), **changes}))


def tiny_detector(config, data_dir):
    """The config of a detector with a small network of its family, on a few scenes."""
    given = config_lib.to_json(config)
    small = detection_runs.tiny_detection(str(data_dir / "scenes"))
    family = find_family(config.model.name).name
    args, own = small["task_args"]["detector_args"], given["task_args"]["detector_args"]
    sizes = {name: args[name] for name in ("sizes", "samples", "limits", "most", "candidates")}
    changes = {
        **small,
        "total_epochs": None,
        "total_steps": 2,
        "schedule": given["schedule"],
        "schedule_args": given["schedule_args"],
        "task_args": {
            **given["task_args"],
            "long": 64,
            "short": 64,
            "detector_args": {**own, **sizes},
        },
        "model": {**given["model"], "name": family, "args": TINY[family][0]},
        "file": "",
        "paper": {},
    }
    return config_lib.to_json(config_lib.resolve({**given, **changes}))


def besides_the_network(config):
    """Return the values that tell the trainings of a file apart."""
    model = config["model"]
    numbers, _ = TINY[model["name"]]
    arguments = sorted(model["args"].keys() - numbers.keys())
    return json.dumps({**config, "model": {**model, "name": "", "args": arguments}})


def trainings(file, data_dir):
    """Small configs of a file's rows, without those that differ in the network alone."""
    small = (tiny(config, data_dir) for config in configs(file).values())
    return {besides_the_network(config): json.dumps(config) for config in small}.values()


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Trains a config, given as JSON, and returns its summary: once, if files have it in common."""
    return functools.cache(
        lambda config: train_and_evaluate(json.loads(config), tmp_path_factory.mktemp("run"))
    )


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_config_trains(file, all_data, train):
    if any(config.task == "detection" for config in configs(file).values()):
        pytest.importorskip("pycocotools")
    for config in trainings(file, all_data):
        summary = train(config)
        assert summary["steps"] == 2
        name = json.loads(config)["data"]["name"]
        numbers = {
            "imagenet2012": 10,
            "aggnets_digits": 360,
            "aggnets_mnist5k": 1000,
            "coco_folder": 6,
        }
        assert summary["final"]["examples"] == numbers.get(name, 20)
        measured = "bbox_AP" if name == "coco_folder" else "accuracy"
        assert 0 <= summary["final"][measured] <= 1


def test_a_config_file_is_read_again_within_the_same_second(tmp_path):
    file, found = tmp_path / "c.py", []
    for lr in (0.1, 0.2, 0.3):
        file.write_text(f"def get_config():\n    return {{'lr': {lr}}}")
        found.append(config_lib.load(str(file)).lr)
    assert found == [0.1, 0.2, 0.3]
    assert list(tmp_path.iterdir()) == [file]  # no byte code


def test_keys_of_a_config_file_are_names(tmp_path):
    file = tmp_path / "c.py"
    file.write_text("def get_config():\n    return {'lr': 1.0, 3: 4}")
    with pytest.raises(UserError, match="keys of a config must be names"):
        config_lib.load(str(file))
