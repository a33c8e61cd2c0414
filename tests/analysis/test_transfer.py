"""Classifiers on features against their definitions; the command on features of a run."""

import csv

import numpy as np
import pytest

from aggnets_jax.analysis import transfer
from aggnets_jax.analysis.outputs import Outputs
from aggnets_jax.errors import UserError
from aggnets_jax.main import main


def blobs(count, seed, noise=1.0):
    """Return features of three classes around three points."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    centres = 2 * np.random.default_rng(9).normal(size=(3, 4))
    return Outputs(np.float32(centres[labels] + noise * random.normal(size=(count, 4))), labels)


def test_the_linear_classifier_is_a_minimum_of_its_objective():
    train = blobs(90, 0)
    fitted = transfer.fit_linear(train, 0.5)
    x = (train.values - train.values.mean(0)) / train.values.std(0)
    weights, bias = fitted[-1].coef_, fitted[-1].intercept_

    def objective(weights, bias):
        logits = x @ weights.T + bias
        losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(90), train.labels]
        return 0.5 * losses.sum() + (weights**2).sum() / 2

    least = objective(weights, bias)
    random = np.random.default_rng(1)
    for _ in range(20):
        moved = objective(
            weights + 0.02 * random.normal(size=weights.shape), bias + 0.02 * random.normal(size=3)
        )
        assert moved > least


def test_neighbours_are_the_nearest_by_cosine():
    train, evaluation = blobs(60, 0, 2.0), blobs(30, 1, 2.0)
    records = transfer.measure(train, evaluation, neighbours=5, shots=(), draws=2)
    (found,) = [record for record in records if record["method"] == "knn"]
    unit = [x.values / np.linalg.norm(x.values, axis=1, keepdims=True) for x in (train, evaluation)]
    nearest = np.argsort(-(unit[1] @ unit[0].T), axis=1)[:, :5]
    votes = [np.bincount(train.labels[row], minlength=3).argmax() for row in nearest]
    assert found["accuracy"] == pytest.approx(np.mean(votes == evaluation.labels))


def test_few_shots_are_other_images_in_each_draw_and_the_same_again():
    train, evaluation = blobs(90, 0, 3.0), blobs(300, 1, 3.0)
    found = transfer.few_shots(train, evaluation, 2, 5)
    assert len(set(found)) > 1
    assert transfer.few_shots(train, evaluation, 2, 5) == found
    assert np.mean(transfer.few_shots(train, evaluation, 20, 5)) > np.mean(found)
    with pytest.raises(UserError, match="the smallest class has 30"):
        transfer.few_shots(train, evaluation, 31, 2)


def test_a_single_class_has_no_classifier():
    one = Outputs(np.zeros((4, 2), np.float32), np.zeros(4, int))
    with pytest.raises(UserError, match="at least two classes"):
        transfer.measure(one, one, neighbours=1, shots=(1,), draws=2)


def test_command(finished_run, tmp_path, capsys):
    flags = [f"--workdir={finished_run}", f"--output={tmp_path}", "--shots=2", "--draws=2"]
    assert main(["analyse", "transfer", *flags]) == 0
    assert "few-shot" in capsys.readouterr().out
    rows = {
        row["method"]: row
        for row in csv.DictReader((tmp_path / "transfer.csv").read_text().splitlines())
    }
    assert list(rows) == ["linear", "sgd", "knn", "few-shot"]
    assert rows["few-shot"]["images"] == "20"
    assert float(rows["linear"]["accuracy"]) > float(rows["few-shot"]["accuracy"])
    assert float(rows["linear"]["accuracy"]) > 0.3  # a network of twelve steps


def test_another_data_set_is_resized(finished_run, tmp_path):
    labels = np.arange(20) % 2
    images = np.where(labels[:, None, None] == 1, 250, 5) * np.ones((20, 12, 12))
    arrays = {"x_train": images.astype(np.uint8), "y_train": labels}
    arrays |= {"x_test": arrays["x_train"], "y_test": labels}
    np.savez(tmp_path / "a.npz", **arrays)
    flags = ["--data=npz", f"--data_dir={tmp_path / 'a.npz'}", "--shots=1", "--draws=2"]
    given = [f"--workdir={finished_run}", f"--output={tmp_path}", *flags]
    assert main(["analyse", "transfer", *given]) == 0
    rows = csv.DictReader((tmp_path / "transfer.csv").read_text().splitlines())
    assert {row["data"] for row in rows} == {"npz"}


def test_wrong_flags_are_one_line(finished_run, tmp_path, capsys):
    for flag in ("--shots=0", "--draws=1", "--endpoint=last", "--data=nothing"):
        given = [f"--workdir={finished_run}", f"--output={tmp_path}", flag]
        assert main(["analyse", "transfer", *given]) == 2
        assert "\n" not in capsys.readouterr().err.strip()
