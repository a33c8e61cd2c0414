"""A workdir that older code has written evaluates and goes on."""

import json
import tarfile
from pathlib import Path

import pytest

from aggnets_jax.evaluate import evaluate_checkpoint
from aggnets_jax.train import train_and_evaluate
from tests import runs

OLD = Path(__file__).with_name("old_run")


@pytest.fixture
def workdir(tmp_path):
    with tarfile.open(OLD / "run.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "run"


def approx(values):
    return pytest.approx(values, rel=1e-5)


def test_it_evaluates_as_it_did(workdir, data_dir):
    expected = json.loads((OLD / "summary.json").read_text())
    assert evaluate_checkpoint(workdir, "4", data_dir) == approx(expected["best"])


def test_it_goes_on_as_it_would_have(workdir, data_dir):
    config = json.loads((workdir / "config.json").read_text())
    assert "task" not in config
    config["data"]["data_dir"] = data_dir
    summary = train_and_evaluate(config, workdir)
    expected = json.loads((OLD / "summary.json").read_text())
    assert summary["final"] == approx(expected["final"])
    assert summary["best"] == approx(expected["best"])
    lines = [json.loads(line) for line in (OLD / "metrics.jsonl").read_text().splitlines()]
    for line, before in zip(runs.metric_lines(workdir), lines, strict=True):
        assert line == approx(before)
    assert summary["config_changes"] == []
