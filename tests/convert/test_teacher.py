"""Runs with a teacher, compared with a straight-line computation of their first loss."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from aggnets_jax import config as config_lib
from aggnets_jax import data
from aggnets_jax.convert.runs import write_new_run
from aggnets_jax.errors import UserError
from aggnets_jax.models import create_configured_model
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.tasks import get_task
from aggnets_jax.train import train_and_evaluate
from aggnets_jax.training.setup import set_up
from tests import runs
from tests.models.variables import random_variables

STUDENT = {"name": "sparsenet10_k4"}
TEACHER = {"name": "resnet14_cifar_w25"}


def config_of(data_dir, model, data=None, **changes):
    steps = {"total_steps": 1, "log_every_steps": 1, "model": model}
    config = runs.tiny_config(data_dir, **steps, **changes)
    config["data"] = {**config["data"], "crop_padding": 0, **(data or {})}
    return config


@pytest.fixture(scope="module")
def teacher(data_dir, tmp_path_factory):
    """The workdir of a network with random weights, normalising its images in its own way."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    own = {"mean": (0.25,), "std": (0.5,)}
    config = config_lib.resolve(config_of(data_dir, TEACHER, data=own))
    model = create_configured_model(config, 10)
    variables = random_variables(model, 8, np.float32, channels=1)
    write_new_run(config, data.describe(config.data), variables, folder)
    return str(folder), model, variables


def logged_loss(folder):
    return next(line["train/loss"] for line in runs.metric_lines(folder) if "train/loss" in line)


def first_loss(data_dir, teacher, folder, **arguments):
    changes = {"teacher": teacher[0], "teacher_args": arguments}
    train_and_evaluate(config_of(data_dir, STUDENT, **changes), folder)
    return logged_loss(folder)


def straight_line(data_dir, teacher, weight, temperature, hints=False):
    """The loss of the first batch, from images to the mean."""
    _, model, variables = teacher
    config = config_lib.resolve(config_of(data_dir, STUDENT))
    mesh = mesh_lib.make_mesh()
    setup = set_up(config, get_task(config), mesh=mesh)
    sharding = mesh_lib.batch_sharding(mesh)
    batches = data.train_batches(config.data, batch_size=32, seed=0, sharding=sharding)
    batch = jax.device_get(next(batches))
    pixels = batch["image"] / 255
    images = (pixels - np.array(setup.info.mean)) / np.array(setup.info.std)
    state = setup.new_state(mesh)
    (logits, endpoints), _ = setup.network.apply(
        {"params": state.params, "batch_stats": state.batch_stats},
        jnp.float32(images),
        train=True,
        mutable=["batch_stats"],
    )
    taught, others = model.apply(variables, jnp.float32((pixels - 0.25) / 0.5), train=False)
    labels = log_softmax(np.float64(logits), axis=1)[np.arange(32), batch["label"]]
    student, soft = (log_softmax(np.float64(x) / temperature, axis=1) for x in (logits, taught))
    divergence = (np.exp(soft) * (soft - student)).sum(1)
    losses = -(1 - weight) * labels + weight * temperature**2 * divergence
    if hints:
        maps = [np.float64((x["stage2"] ** 2).sum(-1)).reshape(32, -1) for x in (endpoints, others)]
        maps = [q / np.linalg.norm(q, axis=1, keepdims=True) for q in maps]
        losses += ((maps[0] - maps[1]) ** 2).sum(1)
    return losses.mean()


def test_a_taught_step_is_the_straight_line(data_dir, teacher, tmp_path):
    asked = {"weight": 0.6, "temperature": 2.0}
    hints = {"hints": (("stage2", "stage2"),), "hint": "attention"}
    found = first_loss(data_dir, teacher, tmp_path / "run", dtype="float32", **asked, **hints)
    expected = straight_line(data_dir, teacher, **asked, hints=True)
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_cached_logits_are_the_teacher_s_of_each_image(data_dir, teacher, tmp_path):
    asked = {"weight": 0.6, "temperature": 2.0}
    found = first_loss(data_dir, teacher, tmp_path / "run", dtype="float32", cached=True, **asked)
    assert found == pytest.approx(straight_line(data_dir, teacher, **asked), rel=1e-4)


@pytest.mark.slow
def test_a_teacher_in_bfloat16_is_near(data_dir, teacher, tmp_path):
    asked = {"weight": 0.6, "temperature": 2.0}
    found = first_loss(data_dir, teacher, tmp_path / "run", **asked)
    expected = straight_line(data_dir, teacher, **asked)
    assert found == pytest.approx(expected, rel=0.03)
    assert found != pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_a_run_that_goes_on_has_the_teacher_that_it_had(data_dir, teacher, tmp_path, capsys):
    """The teacher of step 0 has learnt more since, and then has its newest state alone."""
    source = shutil.copytree(teacher[0], tmp_path / "teacher")
    own = config_of(data_dir, TEACHER, data={"mean": (0.25,), "std": (0.5,)})
    changes = {"teacher": str(source), "teacher_args": {}}
    student = config_of(data_dir, STUDENT, **changes)
    train_and_evaluate(student, tmp_path / "student")
    train_and_evaluate(own, source)
    capsys.readouterr()
    two_steps = {**student, "total_steps": 2}
    train_and_evaluate(two_steps, tmp_path / "student", allow_config_change=True)
    assert f"taught by {source} after step 0\n" in capsys.readouterr().out
    shutil.rmtree(source / "checkpoints" / "0")
    three_steps = {**student, "total_steps": 3}
    with pytest.raises(UserError, match=r"no checkpoint '0' .* learnt from step 0: .* number"):
        train_and_evaluate(three_steps, tmp_path / "student", allow_config_change=True)
    three_steps["teacher_checkpoint"] = "1"
    train_and_evaluate(three_steps, tmp_path / "student", allow_config_change=True)
    assert f"taught by {source} after step 1\n" in capsys.readouterr().out


@pytest.mark.slow
def test_devices_change_rounding_alone(data_dir, teacher, tmp_path):
    changes = {
        "teacher": teacher[0],
        "teacher_args": {"weight": 0.6, "temperature": 2.0, "dtype": "float32"},
        "sharding": "fsdp",
    }
    config = runs.write_config(tmp_path / "c.py", config_of(data_dir, STUDENT, **changes))
    arguments = (f"--config={config}", f"--workdir={tmp_path / 'run'}")
    code, _, error = runs.finish(runs.start(*arguments, devices=4))
    assert code == 0, error
    found = logged_loss(tmp_path / "run")
    asked = {"weight": 0.6, "temperature": 2.0}
    assert found == pytest.approx(straight_line(data_dir, teacher, **asked), rel=1e-4)


@pytest.mark.slow
def test_a_teacher_that_does_not_fit_is_refused(data_dir, teacher, tmp_path):
    def message(**changes):
        config = config_of(data_dir, STUDENT, **{"teacher": teacher[0], **changes})
        with pytest.raises(UserError) as raised:
            train_and_evaluate(config, tmp_path / "run")
        assert not (tmp_path / "run" / "config.json").exists()
        return str(raised.value)

    assert "there is no workdir" in message(teacher=str(tmp_path / "none"))
    assert "is a file: make a workdir" in message(teacher=str(tmp_path / "big.safetensors"))
    hints = {"hints": (("stage2", "stge2"),)}
    assert "endpoint of the teacher 'stge2'" in message(teacher_args=hints)
    hints = {"hints": (("stage2", "stage2"),)}
    assert "'attention' only equal maps" in message(teacher_args=hints)
    assert "set config.teacher" in message(teacher=None, teacher_args={"weight": 0.5})
