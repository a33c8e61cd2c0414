"""Runs of networks that are computed in one way or another, and go on in the other, or can't."""

import shutil

import jax
import numpy as np
import pytest

from aggnets_jax.errors import UserError
from aggnets_jax.evaluate import evaluate_checkpoint
from aggnets_jax.runtime.mesh import make_mesh, replicated
from aggnets_jax.train import train_and_evaluate
from aggnets_jax.workdir.restore import restore_network
from tests.runs import tiny_config

NETWORK = {"name": "sparsenet10_k4", "args": {"stage_depths": (7, 2)}}


def run(workdir, data_dir, steps=6, *, model=None, allow_config_change=False, **changes):
    config = tiny_config(
        data_dir,
        total_steps=steps,
        eval_every_steps=3,
        checkpoint_every_steps=3,
        model={**NETWORK, **(model or {})},
        **changes,
    )
    return train_and_evaluate(config, workdir, allow_config_change=allow_config_change)


@pytest.fixture(scope="module")
def with_loops(data_dir, tmp_path_factory):
    """The workdir and the summary of a run with loops."""
    workdir = tmp_path_factory.mktemp("with_loops")
    return workdir, run(workdir, data_dir, 3, model={"scan": True})


def variables_of(workdir, **keywords):
    restored = restore_network(workdir, "latest", replicated(make_mesh()), **keywords)
    return restored.model, restored.variables


@pytest.mark.slow
def test_a_checkpoint_of_loops_is_one_of_the_network(with_loops):
    workdir, summary = with_loops
    assert evaluate_checkpoint(workdir)["loss"] == pytest.approx(summary["final"]["loss"], rel=1e-5)
    loops, stacked = variables_of(workdir, keep_loops=True)
    apart, variables = variables_of(workdir)
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    one, other = (jax.jit(m.apply)(v, images)[0] for m, v in ((loops, stacked), (apart, variables)))
    assert "layers4_7" in stacked["params"]["stage1"]
    assert set(variables["params"]["stage1"]) == {f"layer{n}" for n in range(1, 8)}
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("before", [False, True])
def test_a_run_goes_on_in_the_other_form(before, data_dir, tmp_path):
    """With the momentum and the averages that it had: as if it had not changed."""
    changes = {"ema_decay": 0.5}
    run(tmp_path / "changes", data_dir, 3, model={"scan": before}, **changes)
    start = variables_of(tmp_path / "changes")[1]
    summary = run(
        tmp_path / "changes",
        data_dir,
        6,
        model={"scan": not before},
        allow_config_change=True,
        **changes,
    )
    assert any("model.scan" in str(change) for change in summary["config_changes"])
    run(tmp_path / "stays", data_dir, 3, model={"scan": before}, **changes)
    run(
        tmp_path / "stays",
        data_dir,
        6,
        model={"scan": before},
        allow_config_change=True,
        **changes,
    )
    changed, same = (variables_of(tmp_path / name)[1] for name in ("changes", "stays"))
    moved = jax.tree.map(lambda x, y: np.max(np.abs(x - y)), start, same)
    apart = jax.tree.map(lambda x, y: np.max(np.abs(x - y)), changed, same)
    assert max(jax.tree.leaves(moved)) > 1e-2
    assert max(jax.tree.leaves(apart)) < 1e-4


@pytest.mark.slow
def test_how_often_a_run_saves_changes_no_bit(data_dir, tmp_path, optimised):
    """XLA does not round alike in a loop and without, where it fuses more, such as augmentation."""
    fingerprints = set()
    for every in (1, 8):
        config = tiny_config(
            data_dir,
            total_steps=8,
            checkpoint_every_steps=every,
            steps_per_dispatch=10,
            optimizer="adamw",
            ema_decay=0.9,
            label_smoothing=0.1,
            model={"name": "sparsenet10_k4", "args": {"dropout": 0.1}},
        )
        config["data"] |= {"mixup": 0.2, "cutmix": 1.0, "policy": "randaugment"}
        fingerprints.add(train_and_evaluate(config, tmp_path / str(every))["fingerprint"])
    assert len(fingerprints) == 1


def test_a_run_that_can_not_go_on_loses_nothing(finished_run, data_dir, tmp_path):
    workdir = shutil.copytree(finished_run, tmp_path / "run")
    (workdir / "metrics.jsonl").write_text("")
    before = {name: (workdir / name).read_bytes() for name in ("config.json", "summary.json")}
    config = tiny_config(data_dir, total_steps=16)
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged: it has 0 lines"):
        train_and_evaluate(config, workdir, allow_config_change=True)
    assert {name: (workdir / name).read_bytes() for name in before} == before
