"""Searches for patterns of links, from the command line."""

import itertools
import json
import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from aggnets_jax import config as config_lib
from aggnets_jax import data
from aggnets_jax.ablation.pruning import LINKS, NETWORK
from aggnets_jax.connectivity.links import find_links
from aggnets_jax.errors import UserError
from aggnets_jax.evaluate import evaluate, evaluate_checkpoint
from aggnets_jax.main import main
from aggnets_jax.models import create_configured_model
from aggnets_jax.runtime.mesh import make_mesh, replicated
from aggnets_jax.workdir.restore import restore_network
from tests import runs


def command(data_dir, workdir, tmp_path, *arguments, **changes):
    """Return the command line of a search that takes seconds."""
    model = {"name": "densenet", "args": {"growth_rate": 4, "stage_depths": (3, 1)}}
    config = {**runs.tiny_config(data_dir, model=model, total_steps=9), **changes}
    file = runs.write_config(tmp_path / "searched.py", config)
    return [f"--config={file}", f"--workdir={workdir}", *map(str, arguments)]


TOPK = ("--penalty=topk", "--strength=0.02", "--keep=9")


@pytest.fixture(scope="module")
def found(data_dir, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("found")
    workdir = tmp_path / "learnt"
    assert main(["learn", *command(data_dir, workdir, tmp_path, *TOPK)]) == 0
    return workdir, json.loads((workdir / "pattern.json").read_text())


@pytest.mark.slow
def test_a_search_leaves_a_pattern_that_trains(found):
    workdir, pattern = found
    files = {file.name for file in workdir.iterdir()}
    assert files >= {"config.py", "cut.csv", "pattern.json", "pattern.png"}
    assert files >= {"checkpoints", "config.json", "metrics.jsonl", "summary.json"}
    last = runs.metric_lines(workdir)[-2]
    assert last["step"] == 9
    assert 0 < last["train/link_weight"] <= last["train/links"] <= 13
    assert (pattern["links"], pattern["kept"], pattern["keep"]) == (13, 9, [9])
    assert (pattern["steps"], pattern["penalty"], pattern["init_from"]) == (9, "topk", None)
    config = config_lib.load(str(workdir / "config.py"))
    assert config.init_from is None
    assert config.total_steps == 9
    stages = find_links(create_configured_model(config, 10), (8, 8, 1))
    assert {name: [list(link) for link in stage.links] for name, stage in stages.items()} == {
        name: stage["edges"] for name, stage in pattern["stages"].items()
    }
    rows = (workdir / "cut.csv").read_text().splitlines()[1:]
    cut = [(name, int(layer), int(source)) for name, layer, source in (r.split(",") for r in rows)]
    weights = {
        (name, layer, source): weight
        for name, stage in pattern["stages"].items()
        for layer, source, weight in stage["weights"]
    }
    left = [(name, *edge) for name, stage in pattern["stages"].items() for edge in stage["edges"]]
    assert sorted([*left, *cut]) == sorted(weights)
    needed = [tuple(link) for link in pattern["needed"]]
    weakest = min(weights[link] for link in left if link not in needed)
    assert all(weights[link] <= weakest for link in cut)
    assert 0 <= min(weights.values()) < 1
    for _, layer in itertools.groupby(weights, key=lambda link: link[:2]):
        assert max(weights[link] for link in layer) == pytest.approx(1, abs=1e-6)


@pytest.mark.slow
def test_a_search_can_be_repeated(found, data_dir, tmp_path):
    _, pattern = found
    assert main(["learn", *command(data_dir, tmp_path / "again", tmp_path, *TOPK)]) == 0
    again = json.loads((tmp_path / "again" / "pattern.json").read_text())
    assert again["stages"] == pattern["stages"]
    assert again["evaluation"] == pattern["evaluation"]


def refusal(capsys, arguments):
    assert main(["learn", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        (("--penalty=l2", "--strength=1"), {}, "unknown penalty 'l2'"),
        (("--penalty=topk", "--strength=1"), {}, "number of links to keep: --keep=K"),
        (("--penalty=topk", "--strength=1", "--keep=5"), {}, "at least 6, got 5"),
        (("--penalty=topk", "--strength=1", "--keep=14"), {}, "at most 13, got 14"),
        (("--penalty=l1", "--strength=1", "--keep=9,4"), {}, "of stage2 must be a whole number"),
        (("--penalty=l1", "--strength=1", "--keep=1,2,3"), {}, "there are 2: stage1, stage2"),
        (("--penalty=l1", "--strength=1", "--keep=many"), {}, "--keep=many must be a number"),
        (("--penalty=l1", "--strength=0"), {}, "the strength of the penalty"),
        (("--penalty=l1",), {}, "required: --strength"),
        ((*TOPK, "--kept=3"), {}, "unknown flag '--kept'; nearest: --keep"),
        ((*TOPK, "--from=NOWHERE"), {}, "NOWHERE"),
        (TOPK, {"num_seeds": 2}, "set config.num_seeds=1"),
        (
            ("--penalty=l1", "--strength=1"),
            {"model": {"name": "mdnet", "args": {"depth": 6, "alpha": 8}}},
            "can't be set",
        ),
    ],
)
def test_what_can_not_be_searched_is_refused(
    arguments, changes, message, data_dir, tmp_path, capsys
):
    workdir = tmp_path / "new"
    told = refusal(capsys, command(data_dir, workdir, tmp_path, *arguments, **changes))
    assert message in told
    assert not workdir.exists()


@pytest.mark.slow
def test_a_search_goes_on_after_a_stop(found, data_dir, tmp_path, monkeypatch, capsys):
    _, pattern = found
    feed = data.ResidentData.feed

    def interrupted(self, step):
        if step == 6:
            signal.raise_signal(signal.SIGTERM)
        return feed(self, step)

    arguments = command(data_dir, tmp_path / "learnt", tmp_path, *TOPK)
    with monkeypatch.context() as patch:
        patch.setattr(data.ResidentData, "feed", interrupted)
        assert main(["learn", *arguments]) == 75
    assert not (tmp_path / "learnt" / "pattern.json").exists()
    assert main(["learn", *arguments]) == 0
    again = json.loads((tmp_path / "learnt" / "pattern.json").read_text())
    assert again["stages"] == pattern["stages"]
    assert again["evaluation"] == pattern["evaluation"]


@pytest.mark.slow
def test_a_search_with_another_penalty_is_refused(found, data_dir, tmp_path, capsys):
    workdir, pattern = found
    other = (*TOPK[:2], "--keep=10")
    told = refusal(capsys, command(data_dir, workdir, tmp_path, *other))
    assert "holds a run of another config (task_args: " in told
    assert json.loads((workdir / "pattern.json").read_text()) == pattern


@pytest.mark.slow
def test_other_programs_do_not_take_its_checkpoints_for_a_network(found, capsys):
    with pytest.raises(UserError, match=r"task='link_weights' is for .*aggnets learn"):
        evaluate_checkpoint(found[0])


@pytest.mark.slow
def test_a_search_starts_from_a_run(data_dir, tmp_path, monkeypatch, capsys):
    arguments = command(data_dir, tmp_path / "run", tmp_path, total_steps=2, seed=5, lr=0.2)
    assert main(arguments) == 0
    trained = restore_network(tmp_path / "run", "latest", replicated(make_mesh())).variables
    seen = []

    def recording(task, eval_step, variables, batches):
        seen.append(variables["params"])
        return evaluate(task, eval_step, variables, batches)

    monkeypatch.setattr("aggnets_jax.ablation.pattern.evaluate", recording)
    arguments = command(data_dir, tmp_path / "learnt", tmp_path, *TOPK, lr=0.0)
    assert main(["learn", *arguments, f"--from={tmp_path}/run"]) == 0
    assert f"starting from {tmp_path}/run after step 2" in capsys.readouterr().out
    for params in seen:
        jax.tree.map(np.testing.assert_array_equal, params[NETWORK], trained["params"])
    pattern = json.loads((tmp_path / "learnt" / "pattern.json").read_text())
    assert pattern["init_from"] == f"{tmp_path}/run"
    # What is trained next starts anew.
    assert config_lib.load(str(tmp_path / "learnt" / "config.py")).init_from is None
    # The second evaluation is without the links that are cut.
    weighed, pruned = (np.asarray(params[LINKS]) for params in seen)
    is_left = [
        [layer, source] in stage["edges"]
        for stage in pattern["stages"].values()
        for layer, source, _ in stage["weights"]
    ]
    assert sum(is_left) == pattern["kept"]
    np.testing.assert_array_equal(pruned, weighed * is_left)


@pytest.mark.slow
def test_devices_change_nothing_but_rounding(found, data_dir, tmp_path):
    _, pattern = found
    process = subprocess.run(
        [
            *(sys.executable, "-m", "aggnets_jax", "learn"),
            *command(data_dir, tmp_path / "learnt", tmp_path, *TOPK),
        ],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
        cwd=runs.ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    again = json.loads((tmp_path / "learnt" / "pattern.json").read_text())
    for stage, there in pattern["stages"].items():
        np.testing.assert_allclose(again["stages"][stage]["weights"], there["weights"], atol=0.02)
