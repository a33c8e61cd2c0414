"""Several seeds under one program are the runs of each; several steps a dispatch are the steps."""

import json

import numpy as np
import pytest

from aggnets_jax.convert import read_state_dict
from aggnets_jax.convert.runs import export_weights
from aggnets_jax.data import ResidentData
from aggnets_jax.errors import UserError
from aggnets_jax.evaluate import evaluate_checkpoint
from aggnets_jax.train import train_and_evaluate
from tests import runs

# Networks under one program take long to compile.
pytestmark = pytest.mark.slow

SHORT = {
    "total_steps": 4,
    "log_every_steps": 2,
    "eval_every_steps": 2,
    "checkpoint_every_steps": 2,
    "model": {"name": "sparsenet10_k4", "args": {"dropout": 0.1}},
}


@pytest.fixture(scope="module")
def alone(data_dir, tmp_path_factory):
    """Two runs, of seeds 3 and 4."""
    workdirs = [tmp_path_factory.mktemp(f"seed{seed}") for seed in (3, 4)]
    return [
        train_and_evaluate(runs.tiny_config(data_dir, seed=seed, **SHORT), workdir)
        for seed, workdir in zip((3, 4), workdirs, strict=True)
    ], workdirs


@pytest.fixture(scope="module")
def together(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("seeds")
    config = runs.tiny_config(data_dir, seed=3, num_seeds=2, **SHORT)
    return train_and_evaluate(config, workdir), workdir


def _lines(workdir):
    return [json.loads(line) for line in runs.metrics(workdir).splitlines()]


def test_each_seed_trains_as_in_its_own_run(alone, together):
    (summaries, workdirs), (summary, workdir) = alone, together
    assert [of_one["seed"] for of_one in summary["seeds"]] == [3, 4]
    for place, seed in enumerate((3, 4)):
        final = summaries[place]["final"]
        assert summary["seeds"][place]["final"]["loss"] == pytest.approx(final["loss"], rel=1e-4)
        for ours, theirs in zip(_lines(workdir), _lines(workdirs[place]), strict=True):
            for name in ("train/loss", "train/accuracy", "eval/loss"):
                if name in theirs:
                    assert ours[f"{name}/seed{seed}"] == pytest.approx(theirs[name], rel=1e-4)
    losses = [of_one["final"]["loss"] for of_one in summary["seeds"]]
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)
    assert summary["final"]["loss"] == pytest.approx(np.mean(losses))


def test_all_seeds_are_restored_and_evaluated(together):
    summary, workdir = together
    restored = evaluate_checkpoint(workdir)
    assert restored["seeds"] == summary["final"]["seeds"]


def test_one_of_the_seeds_predicts_and_is_exported(together, data_dir, tmp_path):
    _, workdir = together
    with pytest.raises(UserError, match="choose one by --seed: 3, 4"):
        export_weights(workdir, str(tmp_path / "none.safetensors"))
    with pytest.raises(UserError, match="unknown seed '5'; allowed: 3, 4"):
        export_weights(workdir, str(tmp_path / "none.safetensors"), seed=5)
    files = [str(tmp_path / f"{seed}.safetensors") for seed in (3, 4)]
    for file, seed in zip(files, (3, 4), strict=True):
        export_weights(workdir, file, seed=seed)
    first, second = (read_state_dict(file) for file in files)
    assert {name: x.shape for name, x in first.items()} == {n: x.shape for n, x in second.items()}
    assert any(np.any(first[name] != second[name]) for name in first)


def test_seeds_resume(together, data_dir, tmp_path):
    half = runs.tiny_config(data_dir, seed=3, num_seeds=2, **SHORT)
    with pytest.MonkeyPatch.context() as patch:
        feed = ResidentData.feed

        def crash(self, step):
            if step == 2:
                raise OSError("crash")
            return feed(self, step)

        patch.setattr(ResidentData, "feed", crash)
        with pytest.raises(OSError, match="crash"):
            train_and_evaluate(half, tmp_path)
    resumed = train_and_evaluate(half, tmp_path)
    summary, workdir = together
    assert resumed["fingerprint"] == summary["fingerprint"]
    assert runs.metrics(tmp_path) == runs.metrics(workdir)


def test_seeds_need_images_on_the_devices(data_dir, tmp_path):
    config = runs.tiny_config(data_dir, num_seeds=2)
    config["data"]["resident"] = "never"
    with pytest.raises(UserError, match="set num_seeds=1"):
        train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_several_steps_a_dispatch(alone, data_dir, tmp_path):
    (summaries, workdirs) = alone
    config = runs.tiny_config(data_dir, seed=3, steps_per_dispatch=3, **SHORT)
    config["log_every_steps"] = 4
    summary = train_and_evaluate(config, tmp_path)
    assert summary["final"]["loss"] == pytest.approx(summaries[0]["final"]["loss"], rel=1e-4)
    evaluations = [
        [line["eval/loss"] for line in _lines(folder) if "eval/loss" in line]
        for folder in (tmp_path, workdirs[0])
    ]
    assert evaluations[0] == pytest.approx(evaluations[1], rel=1e-4)
