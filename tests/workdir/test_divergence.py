"""Runs whose loss or gradients are not finite: what they leave, and how they can go on."""

import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import config as config_lib
from aggnets_jax import data
from aggnets_jax.errors import Diverged
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.tasks.classification import Classification
from aggnets_jax.train import train_and_evaluate
from aggnets_jax.workdir.divergence import check_evaluation
from tests import runs


def batches(config, steps):
    """Epochs and indices of the batches of the first steps."""
    config = config_lib.resolve(config)
    batch_sharding = mesh_lib.batch_sharding(mesh_lib.make_mesh())
    found = data.train_batches(config.data, batch_size=32, seed=0, sharding=batch_sharding)
    return list(itertools.islice(found, steps))


@pytest.fixture
def spoil(monkeypatch, data_dir):
    """Makes the images of the batch of some steps (counted from 1) NaN, wherever a run begins."""
    make_preprocess = data.make_preprocess

    def spoil(*steps):
        found = batches(runs.tiny_config(data_dir), max(steps))
        firsts = jnp.stack([found[step - 1]["index"][0] for step in steps])

        def make(*args):
            preprocess = make_preprocess(*args)

            def spoilt(batch, *, train, **more):
                images = preprocess(batch, train=train, **more)
                if not train:
                    return images
                return jnp.where(jnp.isin(batch["index"][0], firsts), jnp.nan, images)

            return spoilt

        monkeypatch.setattr(data, "make_preprocess", make)

    return spoil


def test_a_run_that_diverges_keeps_its_checkpoint_and_names_the_batch(spoil, data_dir, tmp_path):
    spoil(7, 8)
    config = runs.tiny_config(data_dir)
    for _ in range(2):  # and again at the same step, from the checkpoint
        with pytest.raises(Diverged, match=r"at step 7, and at 1 of the steps after it; .*\.json"):
            train_and_evaluate(config, tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").glob("[0-9]*")] == ["5"]
    report = json.loads((tmp_path / "divergence.json").read_text())
    seventh = batches(config, 7)[6]
    assert report == {
        "step": 7,
        "seed": 0,
        "split": "train",
        "epoch": seventh["epoch"].tolist(),
        "index": seventh["index"].tolist(),
    }


@pytest.mark.slow
def test_steps_that_may_be_skipped_are_counted_and_the_run_ends(spoil, data_dir, tmp_path, capsys):
    spoil(7, 8)
    summary = train_and_evaluate(runs.tiny_config(data_dir, skip_nonfinite_steps=2), tmp_path)
    assert np.isfinite(summary["final"]["loss"])
    lines = [line for line in runs.metric_lines(tmp_path) if "train/loss" in line]
    assert [line["train/skipped_steps"] for line in lines] == [0, 0, 2, 0]
    assert capsys.readouterr().out.count("skipped steps: 2\n") == 1
    assert not (tmp_path / "divergence.json").exists()


@pytest.mark.slow
def test_more_steps_than_may_be_skipped_end_the_run(spoil, data_dir, tmp_path):
    spoil(7, 8)
    with pytest.raises(Diverged, match="at step 7, and at 1 of the steps after it"):
        train_and_evaluate(runs.tiny_config(data_dir, skip_nonfinite_steps=1), tmp_path)


@pytest.mark.slow
def test_a_line_of_the_log_without_a_finite_step_ends_the_run(spoil, data_dir, tmp_path):
    spoil(13)  # which is logged alone
    with pytest.raises(Diverged, match=r"no step since the last line .* \(1 were skipped\)"):
        train_and_evaluate(
            runs.tiny_config(data_dir, total_steps=13, skip_nonfinite_steps=2), tmp_path
        )


def test_an_evaluation_that_is_not_finite_is_told():
    metrics = {"step": 4, "loss": 1.0, "accuracy": 0.5, "accuracy_top5": 0.5}
    with pytest.raises(Diverged, match="evaluation is not finite at step 4"):
        check_evaluation(Classification(), {**metrics, "loss": float("inf")})
    check_evaluation(Classification(), metrics)


def test_a_run_whose_evaluation_diverges_leaves_a_report(data_dir, tmp_path, monkeypatch):
    def evaluate(*arguments):
        return {"loss": float("nan"), "accuracy": 0.5, "accuracy_top5": 0.5, "examples": 1}

    monkeypatch.setattr("aggnets_jax.train.evaluate", evaluate)
    with pytest.raises(Diverged, match="the loss of the evaluation is not finite at step 4") as end:
        train_and_evaluate(runs.tiny_config(data_dir), tmp_path)
    report = json.loads((tmp_path / "divergence.json").read_text())
    assert report == {"error": str(end.value)}


@pytest.mark.slow
def test_a_last_step_that_diverges_is_not_saved(data_dir, tmp_path):
    with pytest.raises(Diverged, match="not finite at step 1"):
        train_and_evaluate(runs.tiny_config(data_dir, total_steps=1, lr=1e38), tmp_path)
    assert not (tmp_path / "checkpoints").exists()
