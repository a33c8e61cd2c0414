"""What a process leaves that was killed, or lost its storage, at an unlucky moment."""

import json
import shutil
import signal

import numpy as np
import pytest

from aggnets_jax import config as config_lib
from aggnets_jax.buckets import file_system
from aggnets_jax.convert.runs import write_new_run
from aggnets_jax.errors import Stopped, Unsaved, UserError
from aggnets_jax.evaluate import evaluate
from aggnets_jax.files import any_path, remove_folder
from aggnets_jax.models import create_configured_model
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.train import train_and_evaluate
from aggnets_jax.workdir.checkpoints import Checkpoints
from aggnets_jax.workdir.folder import check_new_or_same, open_workdir
from aggnets_jax.workdir.mirror import Mirror
from aggnets_jax.workdir.progress import Progress
from aggnets_jax.workdir.restore import restore_network
from tests import buckets, runs
from tests.marks import slow_but
from tests.models.variables import random_variables
from tests.workdir.states import (
    CONFIG,
    assert_is,
    changed,
    make_state,
    open_checkpoints,
    restore,
    save,
)


@pytest.fixture(params=slow_but(["disk", "gs", "s3"], quick=["disk"]))
def workdir(request, tmp_path):
    """A workdir with nothing there, on a disk and in buckets."""
    if request.param == "disk":
        return tmp_path / "workdir"
    proxy = request.getfixturevalue(f"{request.param}_server")
    proxy.behave()
    return any_path(f"{proxy.bucket}/{tmp_path.name}")


def fail(*_, **__):
    raise OSError("gone")


def test_a_best_network_after_a_first_state_that_could_not_be_saved(tmp_path):
    """Killed then, the run starts again: nothing was there to go on from."""
    progress = Progress(lines={"metrics": 3})
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.note_failure(OSError("full"), 3)
        checkpoints.save_best(make_state(4), progress)
        with pytest.raises(Unsaved):
            checkpoints.finish()
    assert progress.lines == {"metrics": 3}
    assert restore(tmp_path) is None


@pytest.mark.parametrize(("saved", "now", "left"), [(2, 2, [2, 3]), (3, 1, [1, 2, 3])])
def test_checkpoints_that_a_killed_process_had_yet_to_delete(workdir, saved, now, left):
    """They go, also from a finished run, but no others: a smaller number to keep is for saves."""
    config = changed(keep_checkpoints=saved)
    with open_checkpoints(workdir, config=config) as checkpoints:
        checkpoints._keep = {"checkpoints": 3, "best": 3}
        for step in (1, 2, 3):
            checkpoints.save(make_state(step), Progress(evaluated=step))
            checkpoints.save_best(make_state(step), Progress(best={"step": step}))
    restored = restore(workdir, keep=now, config=config)
    assert_is(restored, 3)
    for series, kept in (("checkpoints", left), ("best", [2, 3])):
        assert sorted(int(p.name) for p in any_path(workdir / series).iterdir()) == kept


def test_a_best_network_comes_after_the_first_state(tmp_path, monkeypatch):
    """A run that was killed between them would be taken for one that has lost its states."""
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(3), Progress())
        begin, state = checkpoints._begin, tmp_path / "checkpoints/3"

        def begin_late(*arguments):
            assert state.is_dir()
            begin(*arguments)

        monkeypatch.setattr(checkpoints, "_begin", begin_late)
        checkpoints.save_best(make_state(4), Progress(lines={"metrics": 3}))
        checkpoints.finish()
    shutil.rmtree(state)
    with pytest.raises(UserError, match="has had checkpoints"):
        restore(tmp_path)
    assert (tmp_path / "best" / "4").is_dir()


def test_a_best_network_that_was_being_deleted(tmp_path, monkeypatch):
    """On a disk; in buckets, see `test_buckets`."""
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save_best(make_state(4), Progress())
        checkpoints.finish()
    with monkeypatch.context() as patch, pytest.raises(OSError, match="gone"):
        patch.setattr(shutil, "rmtree", fail)
        restore(tmp_path)
    with Checkpoints(tmp_path) as reader:
        assert reader.steps() == []
    assert restore(tmp_path) is None


def test_a_checkpoint_that_a_run_has_deleted_meanwhile_is_gone_and_not_damaged(workdir):
    save(workdir, 1)
    with Checkpoints(workdir) as reader:
        assert reader.find("latest") == ("checkpoints", 1)
        folder = workdir / "checkpoints" / "1"
        remove_folder(folder)
        with pytest.raises(UserError, match=rf"checkpoint {folder} is gone: a run that goes on"):
            reader.restore_config("checkpoints", 1)


@pytest.mark.slow
def test_a_bucket_out_of_reach_is_not_taken_for_an_empty_one(place, monkeypatch):
    save(place, 1)
    with monkeypatch.context() as patch:
        # gcsfs takes it for the answer that there is no folder.
        patch.setattr(type(file_system(any_path(place))), "_info", fail)
        with pytest.raises(OSError, match="gone"):
            restore(place)
        with pytest.raises(OSError, match="gone"), Checkpoints(place) as reader:
            reader.find("latest")
    assert_is(restore(place), 1)


def test_a_download_that_was_cut_begins_again(s3_server, monkeypatch):
    workdir = any_path(f"{s3_server.bucket}/cut")
    save(workdir, 1)
    mirror, client = Mirror(workdir), file_system(workdir)

    def cut(sources, targets):
        client.get_file(sources[0], targets[0])
        fail()

    mirror.look("checkpoints")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="gone"):
        patch.setattr(client, "get", cut)
        mirror.fetch("checkpoints", 1)
    mirror.fetch("checkpoints", 1)
    names = buckets.objects(f"{workdir}/checkpoints/1")
    assert all((mirror.root / "checkpoints/1" / name).is_file() for name in names)
    mirror.close()


def convert(data_dir, workdir, bias=1.0):
    config = config_lib.resolve(runs.tiny_config(data_dir))
    model = create_configured_model(config, runs.DATASET.num_classes)
    variables = random_variables(model, 8, np.float32, channels=1)
    variables["params"]["classifier"]["bias"] = np.full(2, bias, np.float32)
    write_new_run(config, runs.DATASET, variables, workdir)


def bias_of(workdir):
    restored = restore_network(workdir, "latest", mesh_lib.replicated(mesh_lib.make_mesh()))
    return np.asarray(restored.variables["params"]["classifier"]["bias"]).tolist()


def test_a_conversion_that_was_killed_can_be_repeated(workdir, data_dir):
    """The config is written last."""
    convert(data_dir, workdir)
    with pytest.raises(UserError, match="holds a run already"):
        convert(data_dir, workdir, 2.0)
    (workdir / "config.json").unlink()
    convert(data_dir, workdir, 2.0)
    assert bias_of(workdir) == [2.0, 2.0]


def test_a_conversion_that_fails_leaves_no_workdir(workdir, data_dir, monkeypatch):
    monkeypatch.setattr("aggnets_jax.convert.runs.write_json", fail)
    with pytest.raises(OSError, match="gone"):
        convert(data_dir, workdir)
    assert not workdir.exists()


def test_states_without_a_config_are_no_conversion(data_dir, copy, tmp_path):
    """They are of steps 1 and 2; or another program's, beside which there is no lock."""
    other = tmp_path / "other" / "checkpoints" / "0"
    other.mkdir(parents=True)
    for workdir in (copy, other.parents[1]):
        with pytest.raises(UserError, match="is not empty and holds no run"):
            convert(data_dir, workdir)
    assert other.is_dir()


def test_a_run_that_was_killed_before_its_config_was_whole_can_begin_again(tmp_path):
    left = [tmp_path / name for name in (".lock", ".config.json.0f1e2d3c.tmp")]
    for file in left:
        file.touch()
    with open_workdir(tmp_path, CONFIG):
        pass
    (tmp_path / ".metrics.json.0f1e2d3c.tmp").touch()
    with pytest.raises(UserError, match="is not empty and holds no run"):
        check_new_or_same(tmp_path)


def test_a_resumed_run_removes_what_a_killed_one_has_half_written(finished_run, tmp_path):
    copy = shutil.copytree(finished_run, tmp_path / "run")
    going_on = copy / ".evaluation.json.0f1e2d3c.tmp"
    for file in (copy / ".summary.json.0f1e2d3c.tmp", going_on, copy / ".mine.tmp"):
        file.touch()
    with open_workdir(copy, json.loads((copy / "config.json").read_text())):
        hidden = {file.name for file in copy.glob(".*")}
    assert hidden == {".lock", ".mine.tmp", going_on.name}


@pytest.mark.slow
def test_a_longer_run_has_no_summary_of_the_shorter_one(
    finished_run, data_dir, tmp_path, monkeypatch
):
    workdir = shutil.copytree(finished_run, tmp_path / "run")
    longer = runs.tiny_config(data_dir, total_steps=13)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="gone"):
        patch.setattr("aggnets_jax.train.write_json", fail)
        train_and_evaluate(longer, workdir, allow_config_change=True)
    assert not (workdir / "summary.json").exists()
    assert json.loads((workdir / "config.json").read_text())["total_steps"] == 12
    train_and_evaluate(longer, workdir, allow_config_change=True)
    assert runs.summary(workdir)["steps"] == 13


@pytest.mark.slow
def test_an_evaluation_that_a_stop_has_put_off_is_there_when_the_run_is_made_longer(
    data_dir, tmp_path, monkeypatch
):
    """After step 12 one is due as the last, and not in the longer run."""
    config = runs.tiny_config(data_dir, eval_every_steps=5)
    longer = {**config, "total_steps": 14}
    workdirs = [tmp_path / "whole", tmp_path / "stopped"]

    def stopped(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return evaluate(*arguments)

    train_and_evaluate({**config, "total_steps": 11}, workdirs[0])
    shutil.copytree(workdirs[0], workdirs[1])
    train_and_evaluate(config, workdirs[0], allow_config_change=True)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr("aggnets_jax.train.evaluate", stopped)
        train_and_evaluate(config, workdirs[1], allow_config_change=True)
    train_and_evaluate(config, workdirs[1], allow_config_change=True)
    for workdir in workdirs:
        train_and_evaluate(longer, workdir, allow_config_change=True)
    assert runs.metrics(workdirs[1]) == runs.metrics(workdirs[0])
    whole, stopped = map(runs.summary, workdirs)
    assert (stopped["best"], stopped["fingerprint"]) == (whole["best"], whole["fingerprint"])
