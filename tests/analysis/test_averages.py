"""Averages of weights, compared with their definitions."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import create_model, data
from aggnets_jax.analysis.averages import Averages, greedy_soup, mean_of, odd
from aggnets_jax.analysis.members import Member
from aggnets_jax.analysis.outputs import Outputs
from aggnets_jax.errors import UserError
from aggnets_jax.main import main
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.workdir.restore import Restored, restore_network
from tests import runs


def test_a_soup_keeps_what_is_no_worse():
    accuracies = [0.6, 0.9, 0.7, 0.8]
    together = {(1, 3): 0.85, (1, 2): 0.9, (1, 2, 0): 0.95}
    asked = []

    def judge(numbers):
        asked.append(tuple(numbers))
        return together[tuple(numbers)]

    assert greedy_soup(accuracies, judge) == [1, 2, 0]
    assert asked == [(1, 3), (1, 2), (1, 2, 0)]


def test_means_are_computed_in_float64():
    big, small = np.float32(2**24), np.float32(1)
    found = mean_of([{"x": np.array([big])}, {"x": np.array([small])}, {"x": np.array([small])}])
    assert found["x"].dtype == np.float32
    assert found["x"][0] == np.float32((2.0**24 + 2) / 3)


def test_one_image_is_too_few_to_choose_and_to_evaluate():
    logits, labels = np.eye(3), np.arange(3)
    assert odd(Outputs(logits, labels)).labels.tolist() == [1]
    with pytest.raises(UserError, match="two images or more"):
        odd(Outputs(logits[:1], labels[:1]))


def restored_from(workdir):
    return restore_network(workdir, "latest", mesh_lib.replicated(mesh_lib.make_mesh()))


def test_command(two_runs, tmp_path, capsys):
    flags = [f"--workdir={two_runs / 'a'}", f"--with={two_runs / 'b'}", f"--output={tmp_path}"]
    saved = tmp_path / "saved"
    assert main(["analyse", "averages", *flags, "--batches=1", f"--save={saved}"]) == 0
    assert "mean of all" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "averages.csv").read_text().splitlines()))
    assert [row["network"][:11] for row in rows[2:]] == ["mean of all", "greedy soup"]
    first, second, mean = map(restored_from, (two_runs / "a", two_runs / "b", saved))
    expected = jax.tree.map(
        lambda x, y: (x + y) / 2, first.variables["params"], second.variables["params"]
    )
    jax.tree.map(np.testing.assert_allclose, mean.variables["params"], expected)

    # The statistics of one batch: what training on it adds to the running averages.
    sharding = mesh_lib.batch_sharding(mesh_lib.make_mesh())
    batch = next(data.train_batches(first.config.data, batch_size=64, seed=0, sharding=sharding))
    images = (batch["image"] / 255 - jnp.array(first.info.mean)) / jnp.array(first.info.std)
    model = first.model.clone(dropout=0.0)
    zeros = jax.tree.map(jnp.zeros_like, first.variables["batch_stats"])
    _, updated = model.apply(
        {"params": expected, "batch_stats": zeros}, images, train=True, mutable=["batch_stats"]
    )
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y / 0.1, rtol=1e-3, atol=1e-4),
        mean.variables["batch_stats"],
        updated["batch_stats"],
    )
    assert main(["eval", f"--workdir={saved}"]) == 0


@pytest.mark.parametrize("changed", ["links", "mean"])
def test_other_networks_of_the_same_shapes_have_no_average(changed):
    """PreActResNet and SparseNet's sums have equal shapes, and other links."""

    def member(name, mean=0.5):
        info = data.DatasetInfo(**{**vars(runs.DATASET), "mean": (mean,) * 3})
        model = create_model(name, 10)
        return Member(name, Restored(1, {}, info, model, {"params": {"kernel": np.zeros(3)}}))

    if changed == "links":
        others, message = (member("preact_resnet29"), member("sparsenet_sum29")), "no mean"
    else:
        others = (member("preact_resnet29"), member("preact_resnet29", mean=0.1))
        message = "another mean and std"
    with pytest.raises(UserError, match=message):
        Averages(others, batches=None, num_batches=1)


def test_one_checkpoint_has_no_average(two_runs, tmp_path, capsys):
    flags = [f"--workdir={two_runs / 'a'}", f"--output={tmp_path}"]
    assert main(["analyse", "averages", *flags]) == 2
    assert "config.keep_checkpoints" in capsys.readouterr().err
    assert not (tmp_path / "averages.csv").exists()


@pytest.mark.parametrize("which", ["7", "best"])
def test_a_checkpoint_that_is_not_there_is_told(two_runs, tmp_path, capsys, which):
    flags = [f"--workdir={two_runs / 'a'}", f"--output={tmp_path}", f"--checkpoints={which}"]
    assert main(["analyse", "ensemble", *flags]) == 2
    assert "heckpoint" in capsys.readouterr().err


def test_a_folder_in_use_is_told_before_the_work(two_runs, tmp_path, capsys):
    flags = [f"--workdir={two_runs / 'a'}", f"--with={two_runs / 'b'}", f"--output={tmp_path}"]
    assert main(["analyse", "averages", *flags, f"--save={two_runs / 'b'}"]) == 2
    error = capsys.readouterr().err
    assert "exists already; give the name of a new folder" in error
    assert not (tmp_path / "averages.csv").exists()
