"""Runs whose workdir is in a bucket: as on a disk, to the bit, whatever the storage does."""

import json
import random
import re
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from aggnets_jax.buckets import file_system
from aggnets_jax.errors import UserError
from aggnets_jax.evaluate import evaluate_checkpoint, watch
from aggnets_jax.files import any_path
from aggnets_jax.main import main
from aggnets_jax.train import train_and_evaluate
from tests import buckets, runs


def text(url):
    return any_path(url).read_text()


def steps_of(url):
    return sorted({int(name.partition("/")[0]) for name in buckets.objects(url)})


def assert_as_on_a_disk(url, finished_run):
    """A finished run is that of `tests.runs.tiny_config` to the bit, with its checkpoints."""
    summary = json.loads(text(f"{url}/summary.json"))
    assert summary["fingerprint"] == runs.summary(finished_run)["fingerprint"]
    assert text(f"{url}/metrics.jsonl") == runs.metrics(finished_run)
    for series in ("checkpoints", "best"):
        local = sorted(int(folder.name) for folder in (finished_run / series).iterdir())
        assert steps_of(f"{url}/{series}") == local
    assert len(buckets.objects(f"{url}/tensorboard")) == 1


@pytest.mark.slow
def test_a_run_is_the_same_and_goes_on(place, data_dir, finished_run, capsys):
    """Its newest checkpoint is of step 5, and the log and the best network are of step 7."""
    config = runs.tiny_config(data_dir)
    train_and_evaluate({**config, "total_steps": 7}, place)
    any_path(f"{place}/checkpoints/7").rmtree()
    train_and_evaluate(config, place, allow_config_change=True)
    assert "continuing after step 5 of 12" in capsys.readouterr().out
    assert_as_on_a_disk(place, finished_run)
    assert all(re.match(r"\d+$", name) for name in buckets.objects(f"{place}/.lease"))
    evaluated = evaluate_checkpoint(place, "best")
    assert json.loads(text(f"{place}/evaluation.json")) == evaluated
    watch(place)
    assert "step 12  evaluation" in capsys.readouterr().out
    with pytest.raises(UserError, match="holds a run of another config"):
        train_and_evaluate({**config, "lr": 1.0}, place)


def test_a_config_that_is_refused_leaves_nothing(place, data_dir):
    config = runs.tiny_config(data_dir, init_from="/nowhere")
    with pytest.raises(UserError, match="there is no workdir /nowhere"):
        train_and_evaluate(config, place)
    assert buckets.objects(place) == {}


@pytest.mark.slow
def test_a_damaged_checkpoint_is_set_aside(place, data_dir, finished_run, capsys):
    config = runs.tiny_config(data_dir)
    train_and_evaluate(config, place)
    (name,) = (n for n in buckets.objects(f"{place}/checkpoints/12/model") if n == "manifest.ocdbt")
    any_path(f"{place}/checkpoints/12/model/{name}").write_bytes(b"damaged")
    train_and_evaluate(config, place)
    damage = f"warning: checkpoint {place}/checkpoints/12 is damaged: "
    assert capsys.readouterr().err.startswith(damage)
    assert any(n.startswith("checkpoints-12/") for n in buckets.objects(f"{place}/damaged"))
    assert_as_on_a_disk(place, finished_run)


@pytest.mark.slow
def test_a_kill_while_the_best_is_deleted_leaves_no_half_of_it(
    place, data_dir, finished_run, monkeypatch
):
    """A run that was killed before its first checkpoint deletes the best network so far."""
    config = runs.tiny_config(data_dir)
    train_and_evaluate({**config, "total_steps": 4}, place)
    any_path(f"{place}/checkpoints").rmtree()
    client = file_system(any_path(place))
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(client, "rm", lambda names: client.rm_file(names[0]) or 1 / len(names[1:]))
        train_and_evaluate(config, place, allow_config_change=True)
    left = buckets.objects(f"{place}/best")
    assert left and "4/commit_success.txt" not in left
    train_and_evaluate(config, place, allow_config_change=True)
    assert_as_on_a_disk(place, finished_run)


@pytest.mark.slow
def test_a_bucket_that_does_not_answer_is_no_damage(place, data_dir, monkeypatch, capsys):
    config = runs.tiny_config(data_dir, total_steps=2)
    train_and_evaluate(config, place)
    before = {name for name in buckets.objects(place) if not name.startswith(".lease")}

    def restore(self, *_, **__):
        raise ValueError("UNAVAILABLE: Error reading object: HTTP response code: 503")

    monkeypatch.setattr(ocp.CheckpointManager, "restore", restore)
    with pytest.raises(OSError, match=r"checkpoints/2: it can't be read: UNAVAILABLE"):
        train_and_evaluate(config, place)
    assert {name for name in buckets.objects(place) if not name.startswith(".lease")} == before
    assert main(["eval", f"--workdir={place}"]) == 74
    assert capsys.readouterr().err.startswith(f"error: {place}/checkpoints/2: it can't be read")


def succeed(capsys, *commands):
    """Run commands, none of which has anything to say on stderr."""
    for words in commands:
        assert (main(words), capsys.readouterr().err) == (0, ""), words


@pytest.mark.slow
def test_commands_on_a_run(place, data_dir, tmp_path, capsys):
    """Each reads a workdir in a bucket, and writes to it what it writes to one on a disk."""
    file = runs.write_config(tmp_path / "tiny.py", runs.tiny_config(data_dir))
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "0.png")
    train, first = ["train", f"--config={file}"], f"--workdir={place}/a"
    succeed(
        capsys,
        [*train, first],
        [*train, f"--workdir={place}/started", f"--config.init_from={place}/a"],
        ["eval", first],
        ["predict", first, f"--images={tmp_path / '0.png'}", f"--output={place}/predictions.csv"],
        ["ablate", first, "--sweep=layers"],
        ["ablate", first, "--cut=stage1:2-1", f"--export={place}/cut"],
        ["eval", f"--workdir={place}/cut"],
        ["analyse", "weights", first],
        ["report", first, "--html"],
    )
    written = buckets.objects(place)
    assert {
        *("predictions.csv", "a/report.html", "a/curves.png", "a/topology.png"),
        *("a/ablation/layers.csv", "a/ablation/ablation.json", "a/analysis/weights.csv"),
        *("a/analysis/weights.png", "a/evaluation.json", "cut/config.py", "cut/cut.csv"),
    } <= {*written}
    assert f"config.init_from = '{place}/cut'" in written["cut/config.py"].decode()


@pytest.mark.slow
def test_tables_and_weights_of_runs(place, data_dir, tmp_path, capsys):
    config = runs.tiny_config(data_dir, num_seeds=2, total_steps=2)
    file = runs.write_config(tmp_path / "tiny.py", config)
    weights = f"{place}/weights.safetensors"
    succeed(
        capsys,
        ["train", f"--config={file}", f"--workdir={place}/a"],
        ["train", f"--config={file}", f"--workdir={place}/b", "--config.model.topology=dense"],
        ["results", f"{place}/a", f"{place}/b", f"--output={place}/tables/results"],
        ["compare", f"{place}/b", "--against", f"{place}/a", f"--output={place}/tables/compared"],
        ["convert", f"--workdir={place}/a", "--seed=0", f"--to_torch={weights}"],
        [
            *("convert", f"--config={file}", "--config.num_seeds=1"),
            *(f"--workdir={place}/c", f"--from_torch={weights}"),
        ],
        ["eval", f"--workdir={place}/c"],
    )
    written = buckets.objects(place)
    tables = ("results.csv", "results.md", "compared.csv", "compared.md")
    assert {f"tables/{name}" for name in tables} <= {*written}
    evaluated, trained = (
        json.loads(written[name]) for name in ("c/evaluation.json", "a/summary.json")
    )
    assert evaluated["loss"] == trained["seeds"][0]["final"]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["away", "slow", "429 and 503"])
def test_trouble_changes_nothing(trouble, place, server, data_dir, finished_run, tmp_path):
    file = runs.write_config(tmp_path / "tiny.py", runs.tiny_config(data_dir))
    process = runs.start(f"--config={file}", f"--workdir={place}")
    while not any("metrics.jsonl" in request for request in server.requests):
        assert process.poll() is None
        time.sleep(0.05)
    if trouble == "away":
        server.leave_for(10)
    elif trouble == "slow":
        server.delay = 0.5
    else:
        server.refuse_some(0.1, 429, 503)
    code, _, err = runs.finish(process, timeout=900)
    assert (code, buckets.own_lines(err)) == (0, [])
    server.behave()
    assert_as_on_a_disk(place, finished_run)


@pytest.mark.slow
def test_a_server_that_stays_away(place, server, data_dir, finished_run, tmp_path):
    file = runs.write_config(tmp_path / "tiny.py", runs.tiny_config(data_dir))
    arguments = (f"--config={file}", f"--workdir={place}")
    server.last = "PUT .*/checkpoints/5/commit_success|/checkpoints/5/commit_success.*&upload_id="
    code, _, err = runs.finish(runs.start(*arguments), timeout=900)
    assert server.away
    *warnings, error = buckets.own_lines(err)
    assert code == 74
    assert error.startswith("error: the state after step 12 could not be saved: ")
    assert all(line.startswith("warning: ") for line in warnings)
    server.behave()
    code, out, err = runs.finish(runs.start(*arguments))
    assert (code, buckets.own_lines(err)) == (0, [])
    assert "continuing after step 5 of 12" in out
    assert_as_on_a_disk(place, finished_run)


@pytest.mark.slow
def test_kills_lose_nothing(place, data_dir, finished_run, tmp_path):
    file = runs.write_config(tmp_path / "tiny.py", runs.tiny_config(data_dir))
    arguments = (f"--config={file}", f"--workdir={place}")
    process = runs.start(*arguments)
    began = time.monotonic()
    assert runs.finish(process)[0] == 0
    whole = time.monotonic() - began
    any_path(place).rmtree()
    draw = random.Random(3)
    for _ in range(4):
        process = runs.start(*arguments)
        time.sleep(draw.uniform(0.3, 1.0) * whole)
        process.kill()
        process.wait()
    code, _, err = runs.finish(runs.start(*arguments))
    assert (code, buckets.own_lines(err)) == (0, [])
    assert_as_on_a_disk(place, finished_run)


@pytest.mark.slow
def test_several_processes(place, data_dir, tmp_path, optimised):
    """In gs://, two processes share a run, and one with other devices goes on with it."""
    file = runs.write_config(tmp_path / "tiny.py", runs.tiny_config(data_dir, total_steps=5))
    launcher = [sys.executable, "launch/local.py", "--processes=2", "--devices=2", "--", "train"]
    train = (f"--config={file}", f"--workdir={place}")
    two = subprocess.run([*launcher, *train], cwd=runs.ROOT, capture_output=True, text=True)
    if place.startswith("s3://"):
        assert two.returncode == 2
        assert "several processes can't write checkpoints to s3://; give a bucket in" in two.stderr
        return
    assert (two.returncode, buckets.own_lines(two.stderr)) == (0, [])
    more = ("--config.total_steps=12", "--allow_config_change")
    code, out, err = runs.finish(runs.start(*train, *more, devices=4))
    assert (code, buckets.own_lines(err)) == (0, [])
    assert "continuing after step 5 of 12" in out
