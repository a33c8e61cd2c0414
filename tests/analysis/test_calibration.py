"""Calibration against sums written out, with Hypothesis; the command against the evaluation."""

import csv
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggnets_jax.analysis import calibration
from aggnets_jax.analysis.outputs import Outputs
from aggnets_jax.evaluate import evaluate_checkpoint
from aggnets_jax.main import main


@st.composite
def predictions(draw):
    count = draw(st.integers(1, 40))
    confidence = draw(st.lists(st.floats(0, 1), min_size=count, max_size=count))
    correct = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    return np.array(confidence), np.array(correct)


@given(predictions(), st.integers(1, 20))
@settings(max_examples=50, deadline=None)
def test_expected_calibration_error_is_its_formula(images, bins):
    confidence, correct = images
    expected = 0.0
    for m in range(bins):
        inside = [
            i for i, p in enumerate(confidence) if m / bins < p <= (m + 1) / bins or p == m == 0
        ]
        if inside:
            gap = np.mean(correct[inside]) - np.mean(confidence[inside])
            expected += len(inside) / len(confidence) * abs(gap)
    # Edges such as 3/7 round in two ways.
    edges = np.linspace(0, 1, bins + 1)
    if not any(np.isclose(confidence[:, None], edges, rtol=1e-12, atol=0).ravel()):
        assert calibration.make_bins(confidence, correct, bins).error == pytest.approx(expected)


@given(predictions(), st.integers(1, 20))
@settings(max_examples=50, deadline=None)
def test_adaptive_bins_hold_every_image_once_and_equally_many(images, bins):
    found = calibration.make_bins(*images, bins, adaptive=True)
    assert found.count.sum() == len(images[0])
    assert found.count.max() - found.count.min() <= 1
    assert np.all(np.diff(found.confidence) >= -1e-12)


def random_outputs(count=400, classes=5, scale=3.0):
    """Return logits that are `scale` times those of which the labels are drawn."""
    random = np.random.default_rng(0)
    logits = 1.5 * random.normal(size=(count, classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([random.choice(classes, p=p) for p in probabilities])
    return Outputs(np.float32(scale * logits), labels)


def test_figures_are_their_sums():
    outputs = random_outputs(50)
    found = calibration.measure(outputs)
    brier = loss = hits = 0.0
    for logits, label in zip(np.float64(outputs.values), outputs.labels, strict=True):
        p = [math.exp(x) / sum(map(math.exp, logits)) for x in logits]
        brier += sum((q - (k == label)) ** 2 for k, q in enumerate(p)) / 50
        loss -= math.log(p[label]) / 50
        hits += (max(range(5), key=p.__getitem__) == label) / 50
    assert found["brier"] == pytest.approx(brier)
    assert found["loss"] == pytest.approx(loss)
    assert found["accuracy"] == pytest.approx(hits)


def test_the_temperature_undoes_a_scale_and_no_other_lowers_the_loss():
    outputs = random_outputs(4000)
    temperature = calibration.fit_temperature(outputs)
    assert temperature == pytest.approx(3, rel=0.1)
    at = lambda t: calibration.cross_entropy(outputs.values / t, outputs.labels)  # noqa: E731
    assert at(temperature) <= min(map(at, np.geomspace(0.5, 10, 50))) + 1e-9


def test_no_image_is_judged_by_a_temperature_that_it_has_chosen():
    outputs = random_outputs(100)
    scaled, (even, odd) = calibration.scale_temperature(outputs)
    on_odd = calibration.fit_temperature(Outputs(outputs.values[1::2], outputs.labels[1::2]))
    assert even == pytest.approx(on_odd) and odd != even
    np.testing.assert_allclose(scaled.values[::2], outputs.values[::2] / even, rtol=1e-6)


def test_command(finished_run, tmp_path, capsys):
    flags = [f"--workdir={finished_run}", f"--output={tmp_path}", "--bins=5"]
    assert main(["analyse", "calibration", *flags]) == 0
    assert "ECE" in capsys.readouterr().out
    plain, scaled = csv.DictReader((tmp_path / "calibration.csv").read_text().splitlines())
    evaluated = evaluate_checkpoint(finished_run)
    assert float(plain["accuracy"]) == pytest.approx(evaluated["accuracy"])
    assert float(plain["loss"]) == pytest.approx(evaluated["loss"], rel=1e-5)
    assert scaled["accuracy"] == plain["accuracy"]
    rows = list(csv.DictReader((tmp_path / "calibration_bins.csv").read_text().splitlines()))
    of_plain = [row for row in rows if row["probabilities"] == "as trained"]
    assert sum(float(row["count"]) for row in of_plain) == evaluated["examples"]
    assert (tmp_path / "calibration.png").stat().st_size > 1000


def test_another_data_set(finished_run, tmp_path, capsys):
    flags = [f"--workdir={finished_run}", f"--output={tmp_path}", "--split=train_10_per_class"]
    assert main(["analyse", "calibration", *flags, "--data=aggnets_digits"]) == 0
    assert "calibration on 100 images" in capsys.readouterr().out
    assert main(["analyse", "calibration", *flags]) == 2
    assert "--split is for --data" in capsys.readouterr().err
