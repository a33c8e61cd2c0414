"""Ensembles, compared with the mean of the logits of their networks, one by one."""

import csv

import numpy as np
import pytest

from aggnets_jax.analysis.ensemble import means_of_first
from aggnets_jax.evaluate import evaluation_batches
from aggnets_jax.main import main
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.train import train_and_evaluate
from aggnets_jax.workdir.restore import restore_network
from tests import runs


def test_means_are_of_the_first_networks():
    logits = np.float32([[[1, 2]], [[3, 0]], [[5, 4]]])
    found = means_of_first(logits)
    np.testing.assert_allclose(found, [[[1, 2]], [[2, 1]], [[3, 2]]])


def test_command(two_runs, tmp_path, capsys):
    flags = [f"--workdir={two_runs / 'a'}", f"--with={two_runs / 'b'}", f"--output={tmp_path}"]
    assert main(["analyse", "ensemble", *flags]) == 0
    assert "mean of the first 2" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "ensemble.csv").read_text().splitlines()))
    mesh = mesh_lib.make_mesh()
    logits, labels = [], []
    for name in "ab":
        restored = restore_network(two_runs / name, "latest", mesh_lib.replicated(mesh))
        images = []
        labels = []
        for batch in evaluation_batches(restored, mesh):
            real = np.asarray(batch["mask"])
            images.append(np.asarray(batch["image"])[real])
            labels.append(np.asarray(batch["label"])[real])
        mean, std = np.array(restored.info.mean), np.array(restored.info.std)
        images = np.float32((np.concatenate(images) / 255 - mean) / std)
        logits.append(np.float64(restored.model.apply(restored.variables, images)[0]))
    labels = np.concatenate(labels)
    for row, values in zip(rows, [*logits, sum(logits) / 2], strict=True):
        assert float(row["accuracy"]) == pytest.approx((values.argmax(1) == labels).mean())
        logs = values - np.log(np.exp(values).sum(1, keepdims=True))
        assert float(row["loss"]) == pytest.approx(-logs[range(len(labels)), labels].mean(), 1e-4)
    assert (tmp_path / "ensemble.png").stat().st_size > 1000


def test_one_network_is_no_ensemble(two_runs, tmp_path, capsys):
    same = f"{two_runs}/b/../a/"
    flags = [f"--workdir={two_runs / 'a'}", f"--with={same}", f"--output={tmp_path}"]
    assert main(["analyse", "ensemble", *flags]) == 2
    assert "name other runs by --with" in capsys.readouterr().err


@pytest.mark.slow
def test_all_seeds_of_a_run_are_an_ensemble(data_dir, tmp_path, capsys):
    config = runs.tiny_config(data_dir, total_steps=1, num_seeds=2)
    train_and_evaluate(config, tmp_path / "run")
    assert main(["analyse", "ensemble", f"--workdir={tmp_path / 'run'}"]) == 0
    table = tmp_path / "run" / "analysis" / "ensemble.csv"
    rows = list(csv.DictReader(table.read_text().splitlines()))
    names = [row["network"].rpartition(", ")[2] for row in rows]
    assert names == ["seed 0", "seed 1", "mean of the first 2"]
    accuracies = [seed["final"]["accuracy"] for seed in runs.summary(tmp_path / "run")["seeds"]]
    assert [float(row["accuracy"]) for row in rows[:2]] == pytest.approx(accuracies)
