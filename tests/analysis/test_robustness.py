"""Attacks against closed forms and their bounds; the command against a computation of its own."""

import csv
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from aggnets_jax.analysis import robustness
from aggnets_jax.analysis.robustness import as_pixels, make_attack, make_attacker, parse_epsilons
from aggnets_jax.evaluate import evaluate_checkpoint, evaluation_batches
from aggnets_jax.main import main
from aggnets_jax.runtime.mesh import make_mesh, replicated
from aggnets_jax.workdir.restore import restore_network
from tests import runs


def linear(weights, pixels):
    return pixels.reshape(len(pixels), -1) @ weights


@pytest.fixture(scope="module")
def batch():
    """Return eight images of 4x4 with black and white pixels; the last one is padding."""
    random = np.random.default_rng(0)
    images = random.choice(np.uint8([0, 3, 128, 250, 255]), (8, 4, 4, 1))
    labels = random.integers(0, 3, 8).astype(np.int32)
    return {"image": images, "label": labels, "mask": np.arange(8) < 7}


@pytest.fixture(scope="module")
def weights():
    return np.random.default_rng(1).normal(size=(16, 3)).astype(np.float32)


def losses(weights, pixels, labels):
    logits = linear(weights, np.float64(pixels))
    return np.log(np.sum(np.exp(logits), -1)) - logits[np.arange(len(labels)), labels]


@pytest.mark.parametrize("epsilon", [0, 2 / 255, 0.1])
def test_fgsm_on_a_linear_model_is_the_sign_of_the_weights(batch, weights, epsilon):
    attack = make_attacker(linear, make_attack("fgsm"))
    changed = attack(weights, batch, epsilon, 0)
    pixels = np.float64(batch["image"]) / 255
    logits = linear(weights, pixels)
    softmax = np.exp(logits) / np.sum(np.exp(logits), -1, keepdims=True)
    slope = (softmax - np.eye(3)[batch["label"]]) @ weights.T
    expected = np.clip(pixels + epsilon * np.sign(slope).reshape(pixels.shape), 0, 1)
    expected[7] = pixels[7]  # padding has no loss
    np.testing.assert_allclose(changed, expected, atol=1e-6)
    assert np.min(changed) == 0 and np.max(changed) == 1


def test_zero_leaves_images_as_they_are(batch, weights):
    for name in ("fgsm", "pgd"):
        changed = make_attacker(linear, make_attack(name))(weights, batch, 0, 0)
        np.testing.assert_array_equal(changed, jax.jit(as_pixels)(batch["image"]))


@pytest.mark.parametrize("options", [{}, {"steps": 3}, {"steps": 5, "step_size": 1.7}])
def test_pgd_stays_in_the_cube_and_in_the_range_of_pixels(batch, weights, options):
    epsilon, pixels = 0.05, np.float64(batch["image"]) / 255
    attack = make_attacker(linear, make_attack("pgd", **options), seed=3)
    changed = attack(weights, batch, epsilon, 0)
    assert np.max(np.abs(changed - pixels)) <= epsilon + 1e-7
    assert np.min(changed) == 0 and np.max(changed) == 1
    assert np.all(
        losses(weights, changed, batch["label"])[:7] > losses(weights, pixels, batch["label"])[:7]
    )


def test_pgd_comes_to_the_worst_corner_of_a_linear_model(batch, weights):
    """With two classes the worst image is known: each pixel as far as it may go."""
    two, labels = weights[:, :2], batch["label"] % 2
    away = (two[:, 1] - two[:, 0]) * np.where(labels == 0, 1, -1)[:, None]
    pixels = np.float64(batch["image"]) / 255
    worst = np.clip(pixels + 0.05 * np.sign(away).reshape(pixels.shape), 0, 1)
    attack = make_attacker(linear, make_attack("pgd"))
    changed = attack(two, {**batch, "label": labels}, 0.05, 0)
    np.testing.assert_allclose(changed[:7], worst[:7], atol=1e-6)


@pytest.mark.slow
def test_random_starts_follow_from_the_seed_and_the_images_number(batch, weights):
    def start(seed, first, rows):
        attack = make_attacker(linear, make_attack("pgd", steps=1, step_size=1e-9), seed)
        part = {name: value[rows] for name, value in batch.items()}
        return np.asarray(attack(weights, part, 0.1, first))

    whole = start(0, 0, slice(None))
    np.testing.assert_array_equal(whole[4:], start(0, 4, slice(4, None)))
    assert np.mean(whole != start(1, 0, slice(None))) > 0.5
    middle = batch["image"] == 128
    moves = (whole - 128 / 255)[middle] / 0.1
    assert -1 <= np.min(moves) < -0.6 and 0.6 < np.max(moves) <= 1


def test_what_is_compiled_serves_for_every_epsilon(batch, weights):
    traced = []

    def counted(weights, pixels):
        traced.append(pixels.shape)
        return linear(weights, pixels)

    attack = make_attacker(counted, make_attack("pgd"))
    for number, epsilon in enumerate((0.1, 0.2, 0.0)):
        attack(weights, batch, epsilon, 8 * number)
    assert len(traced) == 1


def test_epsilons_are_fractions_or_decimals():
    assert parse_epsilons(["8/255", "0", "0.01", "1/100", "1"]) == [0.01, 8 / 255, 1]


def read(file):
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture(scope="module")
def measured(workdir, tmp_path_factory):
    """Return the folder and the rows of the CSV file for both attacks."""
    output = tmp_path_factory.mktemp("robustness")
    flags = ["--attack=fgsm", "--attack=pgd", "--steps=3", "--epsilons", "16/255", "0.25"]
    assert (
        main(["analyse", "robustness", f"--workdir={workdir}", f"--output={output}", *flags]) == 0
    )
    return output, read(output / "robustness.csv")


def test_the_images_as_they_are_have_the_accuracy_of_the_evaluation(workdir, measured):
    clean = measured[1][0]
    evaluated = evaluate_checkpoint(workdir)
    assert clean["attack"] == "none"
    assert float(clean["accuracy"]) == evaluated["accuracy"]
    assert float(clean["loss"]) == evaluated["loss"]


def test_fgsm_is_what_plain_code_makes_of_the_network(workdir, measured):
    """The gradient by normalised images has the sign of the gradient by pixels."""
    restored = restore_network(workdir, "latest", replicated(make_mesh()))
    info, batches = restored.info, evaluation_batches(restored, make_mesh())

    def loss(images, labels, mask):
        logits, _ = restored.model.apply(restored.variables, images)
        chosen = jax.nn.log_softmax(logits)[np.arange(len(labels)), labels]
        return -jax.numpy.sum(chosen * mask), logits

    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
    right = total = 0
    for batch in batches:
        labels, mask = np.asarray(batch["label"]), np.asarray(batch["mask"])
        pixels = np.asarray(batch["image"]) / np.float32(255)
        _, slope = gradient((pixels - info.mean[0]) / info.std[0], labels, mask)
        pixels = np.clip(pixels + 0.25 * np.sign(slope), 0, 1)
        (value, logits), _ = gradient((pixels - info.mean[0]) / info.std[0], labels, mask)
        right += np.sum((np.argmax(logits, -1) == labels) & mask)
        total += value
    (row,) = [r for r in measured[1] if (r["attack"], r["epsilon"]) == ("fgsm", "0.25")]
    # A gradient of nearly zero may have either sign.
    assert abs(float(row["accuracy"]) - right / 360) <= 1 / 360
    assert np.isclose(float(row["loss"]), total / 360, rtol=1e-3)
    assert right / 360 < float(measured[1][0]["accuracy"])


def test_pgd_is_the_stronger_attack_and_larger_changes_are_worse(measured):
    loss = {(r["attack"], r["epsilon"][:4]): float(r["loss"]) for r in measured[1]}
    assert loss["none", "0.0"] < loss["fgsm", "0.06"] <= loss["pgd", "0.06"] < loss["pgd", "0.25"]


def test_the_command_writes_a_picture(measured):
    assert sorted(file.name for file in measured[0].iterdir()) == [
        "robustness.csv",
        "robustness.png",
    ]


@pytest.mark.slow
def test_networks_are_compared(workdir, measured, tmp_path, capsys):
    copy = tmp_path / "copy"
    copy.symlink_to(workdir)
    flags = [f"--output={tmp_path}", f"--against={copy}", "--epsilons=16/255"]
    assert main(["analyse", "robustness", f"--workdir={workdir}", *flags]) == 0
    rows = read(tmp_path / "robustness.csv")
    assert [row["network"] for row in rows] == [str(workdir)] * 2 + [str(copy)] * 2
    ours = [{**row, "network": None} for row in rows]
    assert ours[:2] == ours[2:] == [{**row, "network": None} for row in measured[1][:2]]
    assert str(copy) in capsys.readouterr().out


@pytest.mark.slow
def test_the_number_of_devices_changes_nothing(workdir, measured, tmp_path):
    flags = ["--attack=fgsm", "--attack=pgd", "--steps=3", "--epsilons", "16/255", "0.25"]
    command = [sys.executable, "-m", "aggnets_jax", "analyse", "robustness", f"--workdir={workdir}"]
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    subprocess.run(
        [*command, f"--output={tmp_path}", *flags], check=True, env=environment, cwd=runs.ROOT
    )
    for ours, theirs in zip(read(tmp_path / "robustness.csv"), measured[1], strict=True):
        assert abs(float(ours["accuracy"]) - float(theirs["accuracy"])) <= 1 / 360
        assert np.isclose(float(ours["loss"]), float(theirs["loss"]), rtol=1e-3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--attack=fgms"], "unknown attack 'fgms'; nearest: fgsm"),
        (["--steps=3"], "--steps is for --attack=pgd"),
        (["--attack=pgd", "--steps=0"], "an attack has at least 1 step, not 0"),
        (["--attack=pgd", "--step_size=nan"], "the size of a step must be above 0, not nan"),
        (["--attack=pgd", "--start_seed=-1"], "--start_seed must be between 0 and"),
        (["--epsilons", "much"], "epsilon 'much' is no number such as 8/255 or 0.03"),
        (["--epsilons", "1/0"], "epsilon '1/0' is no number"),
        (["--epsilons", "8"], "epsilon must be in 0..1, the range of pixels, not 8"),
        (["--against=FOLDER"], "FOLDER"),
    ],
)
def test_bad_input_is_one_line(workdir, tmp_path, capsys, flags, message):
    flags = [flag.replace("FOLDER", str(tmp_path)) for flag in flags]
    assert (
        main(["analyse", "robustness", f"--workdir={workdir}", f"--output={tmp_path}", *flags]) == 2
    )
    captured = capsys.readouterr()
    assert message.replace("FOLDER", str(tmp_path)) in captured.err
    assert captured.err.count("\n") == 1 and captured.out == ""
    assert not list(tmp_path.iterdir())


def test_other_images_are_not_compared(workdir, tmp_path, against_other_images, capsys):
    against_other_images(robustness, "train")
    other = shutil.copytree(workdir, tmp_path / "run")
    flags = [f"--workdir={workdir}", f"--output={tmp_path}", f"--against={other}"]
    assert main(["analyse", "robustness", *flags]) == 2
    assert (
        "has other images: its data set's eval_split is train, not test" in capsys.readouterr().err
    )
