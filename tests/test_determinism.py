"""Equal runs are equal to the bit, and `results/determinism.py` can tell when they are not."""

import csv
import json
import shutil

import pytest

from aggnets_jax.train import train_and_evaluate
from results import determinism
from tests import runs


@pytest.fixture(scope="module")
def pair(data_dir, tmp_path_factory):
    """The workdirs of two equal runs."""
    folder = tmp_path_factory.mktemp("pair")
    config = runs.tiny_config(data_dir, total_steps=4)
    workdirs = folder / "a", folder / "b"
    for workdir in workdirs:
        train_and_evaluate(config, workdir)
    return workdirs


@pytest.mark.slow
def test_equal_runs_are_equal_to_the_bit(pair):
    assert determinism.unequal(*pair) == []
    row = determinism.compare("resident", 2, pair, on_one=pair[1])
    assert (row.repeated, row.train_loss, row.eval_loss, row.parameters) == ("equal", 0, 0, 0)


def test_what_differs_is_told(finished_run, tmp_path):
    other = shutil.copytree(finished_run, tmp_path / "other")
    metrics = runs.metrics(other)
    line = json.loads(metrics.splitlines()[0])
    nearly = json.dumps({**line, "train/loss": line["train/loss"] * 1.5}) + "\n"
    (other / "metrics.jsonl").write_text(nearly + metrics.partition("\n")[2])
    (other / "summary.json").write_text(
        json.dumps({**runs.summary(other), "fingerprint": "0", "final": {}})
    )
    assert determinism.unequal(other, finished_run) == ["fingerprint", "final", "metrics.jsonl"]
    row = determinism.compare("resident", 2, (other, other), on_one=finished_run)
    assert row.repeated == "equal"
    assert row.train_loss == pytest.approx(0.5)
    assert (row.eval_loss, row.parameters) == (0, 0)


@pytest.mark.parametrize(("repeated", "equal"), [("equal", True), ("fingerprint", False)])
def test_the_table_and_the_exit_code(repeated, equal, finished_run, monkeypatch, tmp_path):
    row = determinism.Row("streamed", 8, "once", repeated, 1.26e-7, 0.0, 0.5, "")
    monkeypatch.setattr(determinism, "measure", lambda *_: ([row], runs.summary(finished_run)))
    arguments = ["--path=streamed", f"--output={tmp_path / 'table.csv'}"]
    if equal:
        assert determinism.main(arguments) == 0
    else:
        with pytest.raises(SystemExit, match="equal runs differ"):
            determinism.main(arguments)
    (written,) = csv.DictReader((tmp_path / "table.csv").open())
    assert (written["devices"], written["repeated"]) == ("8", repeated)
    assert (written["train_loss"], written["parameters"]) == ("1.3e-07", "5.0e-01")


@pytest.mark.parametrize("flag", ["--path=resdent", "--output=/nowhere/a.csv"])
def test_bad_flags_are_told(flag, capsys):
    assert determinism.main([flag]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_all_paths_on_one_two_and_eight_devices(tmp_path):
    rows, _ = determinism.measure(tmp_path, list(determinism.PATHS))
    assert len(rows) == 3 * len(determinism.PATHS)
    assert {row.repeated for row in rows} == {"equal"}
    for row in rows:
        differences = (row.train_loss, row.eval_loss, row.parameters)
        if row.remark:
            assert min(differences) > 1e-4, row
        else:
            assert max(differences) < 2e-6, row
