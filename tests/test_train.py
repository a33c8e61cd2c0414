"""The main job: what a run leaves behind, and that it stops and goes on exactly."""

import fcntl
import json
import os
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from aggnets_jax import data
from aggnets_jax.errors import Diverged, Stopped, UserError
from aggnets_jax.evaluate import evaluate_checkpoint
from aggnets_jax.train import train_and_evaluate
from aggnets_jax.workdir.provenance import fingerprint
from tests import runs


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def whole(finished_run, tmp_path_factory):
    """The workdir and summary of a run that nothing interrupts."""
    workdir = shutil.copytree(finished_run, tmp_path_factory.mktemp("whole") / "run")
    return workdir, runs.summary(workdir)


def test_summary_says_what_became_of_the_run(whole):
    _, summary = whole
    assert summary["steps"] == 12
    assert summary["final"]["step"] == 12
    assert summary["final"]["examples"] == 360
    assert summary["best"]["accuracy"] >= summary["final"]["accuracy"]
    assert summary["images_per_second"] > 0
    assert summary["compile_seconds"] > 0
    assert summary["peak_memory_bytes"] > 0
    assert summary["versions"]["jax"] == jax.__version__
    assert summary["network"]["name"] == "sparsenet10_k4"
    assert len(summary["fingerprint"]) == 64


def test_metrics_are_logged_at_the_steps_that_the_config_names(whole):
    lines = [json.loads(line) for line in runs.metrics(whole[0]).splitlines()]
    train = [line["step"] for line in lines if "train/loss" in line]
    evaluation = [line["step"] for line in lines if "eval/loss" in line]
    assert train == [3, 6, 9, 12]
    assert evaluation == [4, 8, 12]
    assert list((whole[0] / "tensorboard").iterdir())
    assert "stage1/layer1/conv1/kernel" in (whole[0] / "parameters.txt").read_text()


def test_latest_and_best_checkpoints_are_kept(whole):
    workdir, summary = whole
    assert {p.name for p in (workdir / "checkpoints").iterdir() if p.is_dir()} == {"10", "12"}
    best = [int(p.name) for p in (workdir / "best").iterdir() if p.is_dir()]
    assert max(best) == summary["best"]["step"]


def test_a_restored_checkpoint_evaluates_to_the_same_numbers(whole):
    workdir, summary = whole
    assert evaluate_checkpoint(workdir) == summary["final"]
    assert evaluate_checkpoint(workdir, "best") == summary["best"]
    assert evaluate_checkpoint(workdir, "12") == summary["final"]


def test_a_finished_run_is_left_as_it_is(whole, data_dir):
    workdir, summary = whole
    before = runs.metrics(workdir)
    assert train_and_evaluate(runs.tiny_config(data_dir), workdir) == summary
    assert runs.metrics(workdir) == before


def test_the_fingerprint_is_that_of_the_saved_parameters(whole):
    workdir, summary = whole
    params = _restore(workdir)
    assert fingerprint(params) == summary["fingerprint"]
    params["classifier"]["bias"] = np.nextafter(params["classifier"]["bias"], 1, dtype=np.float32)
    assert fingerprint(params) != summary["fingerprint"]


def _restore(workdir, step=12):
    with ocp.CheckpointManager(Path(workdir).absolute() / "checkpoints") as manager:
        arguments = ocp.args.Composite(model=ocp.args.StandardRestore())
        return manager.restore(step, args=arguments)["model"]["params"]


def _interrupt(monkeypatch, step, action):
    """Does something when the batch of a step (counted from 1) is asked for."""
    feed = data.ResidentData.feed

    def interrupted(self, s):
        if s + 1 == step:
            action()
        return feed(self, s)

    monkeypatch.setattr(data.ResidentData, "feed", interrupted)


# The first batch is asked for before the step is compiled; after step 4 an evaluation is due,
# after 5 a checkpoint, after 12 all is done.
@pytest.mark.parametrize("step", [slow(1), slow(4), 5, slow(11), slow(12)])
def test_stopped_after_any_step_and_started_again(step, whole, data_dir, tmp_path, monkeypatch):
    workdir, summary = whole
    config = runs.tiny_config(data_dir)
    with monkeypatch.context() as patch:
        _interrupt(patch, step, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Stopped, match=f"SIGTERM: stopped after step {step * (step > 1)};"):
            train_and_evaluate(config, tmp_path)
    assert not (tmp_path / "summary.json").exists()
    resumed = train_and_evaluate(config, tmp_path)
    _assert_same_run(resumed, tmp_path, summary, workdir)


@pytest.mark.slow
def test_streamed_run_stopped_and_started_again(data_dir, tmp_path, monkeypatch):
    config = runs.tiny_config(data_dir, total_steps=6, checkpoint_every_steps=4)
    config["model"] = {"name": "sparsenet10_k4"}
    config["data"]["resident"] = "never"
    summary = train_and_evaluate(config, tmp_path / "whole")
    feed = data.StreamedData.feed

    def interrupted(self, step):
        if step == 2:
            signal.raise_signal(signal.SIGTERM)
        return feed(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(data.StreamedData, "feed", interrupted)
        with pytest.raises(Stopped, match="stopped after step 3;"):
            train_and_evaluate(config, tmp_path / "run")
    resumed = train_and_evaluate(config, tmp_path / "run")
    _assert_same_run(resumed, tmp_path / "run", summary, tmp_path / "whole")


@pytest.mark.parametrize("step", [slow(2), slow(9)])
def test_crashed_at_a_step_and_started_again(step, whole, data_dir, tmp_path, monkeypatch):
    workdir, summary = whole

    def crash():
        raise OSError("disk on fire")

    with monkeypatch.context() as patch:
        _interrupt(patch, step, crash)
        with pytest.raises(OSError, match="disk on fire"):
            train_and_evaluate(runs.tiny_config(data_dir), tmp_path)
    resumed = train_and_evaluate(runs.tiny_config(data_dir), tmp_path)
    _assert_same_run(resumed, tmp_path, summary, workdir)


def _assert_same_run(resumed, resumed_workdir, summary, workdir):
    assert resumed["fingerprint"] == summary["fingerprint"]
    assert resumed["final"] == summary["final"]
    assert resumed["best"] == summary["best"]
    assert runs.metrics(resumed_workdir) == runs.metrics(workdir)
    assert evaluate_checkpoint(resumed_workdir, "best") == summary["best"]


@pytest.mark.slow
def test_killed_in_mid_epoch_and_started_again(data_dir, tmp_path):
    config = runs.tiny_config(
        data_dir, total_steps=60, checkpoint_every_steps=7, ema_decay=0.9, accumulation_steps=2
    )
    file = runs.write_config(tmp_path / "tiny.py", config)
    for name, kills in (("whole", 0), ("killed", 3)):
        workdir = tmp_path / name
        for kill in range(kills):
            process = runs.start(f"--config={file}", f"--workdir={workdir}")
            _wait_for_step(process, workdir, 15 * (kill + 1))
            process.kill()
            runs.finish(process)
        code, _, err = runs.finish(runs.start(f"--config={file}", f"--workdir={workdir}"))
        assert code == 0, err
    assert (
        runs.summary(tmp_path / "killed")["fingerprint"]
        == (runs.summary(tmp_path / "whole")["fingerprint"])
    )
    assert runs.metrics(tmp_path / "killed") == runs.metrics(tmp_path / "whole")


def _wait_for_step(process, workdir, step):
    # The step's checkpoint is being written, or has just been.
    while process.poll() is None:
        steps = (p.name.partition(".")[0] for p in (workdir / "checkpoints").glob("[0-9]*"))
        if any(int(s) >= step for s in steps):
            return
        time.sleep(0.01)
    pytest.fail(f"ended before step {step}: {runs.finish(process)}")


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on(data_dir, tmp_path):
    file = runs.write_config(
        tmp_path / "tiny.py", runs.tiny_config(data_dir, total_steps=100_000, log_every_steps=1)
    )
    process = runs.start(f"--config={file}", f"--workdir={tmp_path / 'run'}")
    while process.poll() is None and not (tmp_path / "run" / "checkpoints" / "5").exists():
        time.sleep(0.05)
    process.terminate()
    code, out, err = runs.finish(process)
    assert code == 75, err
    assert err.startswith("SIGTERM: stopped after step ") and err.count("\n") == 1
    step = int(err.split()[4].strip(";"))
    assert (tmp_path / "run" / "checkpoints" / str(step)).is_dir()
    assert f"step {step:>6}/100000" in out


@pytest.mark.slow
def test_one_and_eight_devices_give_the_same_losses(data_dir, tmp_path):
    file = runs.write_config(tmp_path / "tiny.py", runs.tiny_config(data_dir, log_every_steps=1))
    lines = {}
    for devices in (1, 8):
        workdir = tmp_path / str(devices)
        process = runs.start(f"--config={file}", f"--workdir={workdir}", devices=devices)
        code, out, err = runs.finish(process)
        assert code == 0, err
        assert f"{devices} cpu device(s)" in out
        lines[devices] = [json.loads(line) for line in runs.metrics(workdir).splitlines()]
    assert len(lines[1]) == len(lines[8]) == 12 + 3
    for one, eight in zip(lines[1], lines[8], strict=True):
        assert eight == pytest.approx(one, rel=2e-6)


@pytest.mark.slow
def test_a_checkpoint_of_one_device_evaluates_on_eight(whole):
    code, _, err = runs.finish(runs.start("eval", f"--workdir={whole[0]}", devices=8))
    assert code == 0, err
    evaluation = json.loads((whole[0] / "evaluation.json").read_text())
    assert evaluation == pytest.approx(whole[1]["final"], rel=2e-6)


@pytest.mark.parametrize("eval_batch_size", [7, slow(360), slow(1000)])
def test_evaluation_counts_every_example_once(eval_batch_size, whole, data_dir, tmp_path):
    config = runs.tiny_config(data_dir, total_steps=4, eval_batch_size=eval_batch_size)
    final = train_and_evaluate(config, tmp_path)["final"]
    assert final["examples"] == 360
    expected = [json.loads(line) for line in runs.metrics(whole[0]).splitlines()][1]
    assert expected["step"] == 4
    assert final["accuracy"] == expected["eval/accuracy"]
    assert final["loss"] == pytest.approx(expected["eval/loss"], rel=1e-6)


@pytest.mark.slow
def test_divergence_stops_the_run_and_names_the_steps(data_dir, tmp_path):
    config = runs.tiny_config(data_dir, lr=1e15, checkpoint_every_steps=1, log_every_steps=12)
    with pytest.raises(Diverged, match=r"not finite at step [23]"):
        train_and_evaluate(config, tmp_path)
    # No checkpoint holds the damage.
    saved = [int(p.name) for p in (tmp_path / "checkpoints").glob("[0-9]*")]
    assert saved
    params = jax.tree.leaves(_restore(tmp_path, max(saved)))
    assert all(np.isfinite(p).all() for p in params)


@pytest.mark.parametrize(
    "changes",
    [
        slow({"dtype": "bfloat16"}),
        slow({"ema_decay": 0.5, "label_smoothing": 0.1, "grad_clip_norm": 0.1}),
        slow({"accumulation_steps": 4, "weight_decay_on": "kernels"}),
        slow({"model": {"name": "sparsenet_sum20", "topology": "fractal", "aggregation": "mean"}}),
        slow({"schedule": "sgdr", "schedule_args": {"first_cycle_steps": 2}}),
        slow({"schedule": "step"}),
        slow({"model": {"name": "densenet_bc", "args": {"depth": 16, "growth_rate": [2, 4, 6]}}}),
        slow({"optimizer": "lamb", "layer_decay": 0.9, "sam_radius": 0.05}),
    ],
)
def test_variants_of_the_recipe_train_and_restore(changes, data_dir, tmp_path):
    config = {**runs.tiny_config(data_dir, total_steps=4), **changes}
    summary = train_and_evaluate(config, tmp_path)
    assert np.isfinite(summary["final"]["loss"])
    assert evaluate_checkpoint(tmp_path) == summary["final"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 30, "accumulation_steps": 4}, "not divisible"),
        ({"lrr": 1}, "nearest: lr"),
        ({"model": {"name": "sparsnet_bc16_k4"}}, "unknown model"),
        ({"model": {"name": "sparsenet_bc17_k4"}}, "nearest 16"),
        (
            {"model": {"name": "sparsenet_bc16_k4", "args": {"groups": 3}}},
            "not divisible by groups",
        ),
        ({"model": {"name": "sparsenet_bc16_k4", "args": {"dropuot": 0.1}}}, "nearest: dropout"),
        ({"model": {"name": "sparsenet_bc16_k4", "topology": "sparce"}}, "nearest: sparse"),
        ({"model": {"name": "sparsenet_bc16_k4", "aggregation": "max"}}, "unknown aggregation"),
        ({"model": {"name": "densenet121"}}, "too small"),
        ({"schedule": "cosin"}, "nearest: cosine"),
        ({"schedule": "cosine", "schedule_args": {"warmup": 1}}, "nearest: warmup_steps"),
        ({"data": {"name": "aggnets_digit"}}, "nearest: aggnets_digits"),
        ({"data": {"name": "cifar100"}}, "prepare-data --name=cifar100"),
    ],
)
def test_bad_input_is_told_in_one_line_and_writes_nothing(changes, message, data_dir, tmp_path):
    config = runs.tiny_config(data_dir, total_steps=1)
    if "data" in changes:
        changes = {"data": {**config["data"], **changes["data"]}}
    workdir = tmp_path / "run"
    with pytest.raises(UserError, match=message) as error:
        train_and_evaluate({**config, **changes}, workdir)
    assert "\n" not in str(error.value)
    assert not workdir.exists()


def test_the_workdir_of_another_run_is_refused_and_left_as_it_was(whole, data_dir):
    workdir, _ = whole
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*")}
    with pytest.raises(
        UserError,
        match=r"^workdir .* holds a run of another config \(lr: 0.05 -> 0.1; seed: 0 -> 3\)",
    ):
        train_and_evaluate(runs.tiny_config(data_dir, lr=0.1, seed=3), workdir)
    assert {p: p.stat().st_mtime_ns for p in workdir.rglob("*")} == before


def test_a_folder_that_holds_no_run_is_refused_and_left_as_it_was(data_dir, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not empty and holds no run"):
        train_and_evaluate(runs.tiny_config(data_dir), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_bad_input_found_late_leaves_no_workdir(data_dir, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise UserError("label 11 is out of range")

    monkeypatch.setattr(data, "train_data", fail)
    with pytest.raises(UserError, match="label 11"):
        train_and_evaluate(runs.tiny_config(data_dir), tmp_path / "a" / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_workdir_in_use_is_refused(data_dir, tmp_path):
    with (tmp_path / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="in use by another process"):
            train_and_evaluate(runs.tiny_config(data_dir), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


def _damage(workdir, name, content):
    file = workdir / name
    whole = file.read_bytes()
    file.write_text(content)
    return lambda: file.write_bytes(whole)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "[]"),
        ("config.json", "{"),
        ("metrics.jsonl", '{"step": 3}\n'),
        ("metrics.jsonl", "[1]\n"),
        ("metrics.jsonl", "{}\n" * 4),
        *(("metrics.jsonl", f'{{"step": 3, "a": {value}}}\n' * 4) for value in ("NaN", '"x"')),
        ("timing.jsonl", "no json\n"),
    ],
)
def test_damaged_files_are_told_in_one_line(name, content, whole, data_dir):
    restore = _damage(whole[0], name, content)
    with pytest.raises(UserError, match=rf"{name}.* is damaged") as error:
        train_and_evaluate(runs.tiny_config(data_dir), whole[0])
    restore()
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_set_aside_and_the_run_ends_as_if_it_were_whole(
    whole, data_dir, tmp_path, capsys, monkeypatch
):
    workdir = shutil.copytree(whole[0], tmp_path / "run")
    for file in (workdir / "checkpoints" / "12" / "model" / "d").iterdir():
        os.truncate(file, 10)
    with pytest.raises(UserError, match=r"checkpoints/12 is damaged: it can't be read") as error:
        evaluate_checkpoint(workdir)
    assert "\n" not in str(error.value)
    with monkeypatch.context() as patch:
        _interrupt(patch, 12, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Stopped, match="stopped after step 12;"):
            train_and_evaluate(runs.tiny_config(data_dir), workdir)
    assert "checkpoints/12 is damaged" in capsys.readouterr().err
    assert not (workdir / "summary.json").exists()  # that of the run's first end
    resumed = train_and_evaluate(runs.tiny_config(data_dir), workdir)
    _assert_same_run(resumed, workdir, whole[1], whole[0])


@pytest.mark.parametrize("workdir", ["/dev/null/run", "/proc/run", "ftp://host/run", "a\0b"])
def test_an_unwritable_workdir_is_told_in_one_line(workdir, data_dir):
    with pytest.raises(UserError, match=r"can't be used|unknown kind of b|is no file") as error:
        train_and_evaluate(runs.tiny_config(data_dir), workdir)
    assert "\n" not in str(error.value)
