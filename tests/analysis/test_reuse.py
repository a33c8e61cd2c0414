"""Reuse of features: closed forms, and the numbers of the heat maps."""

import csv
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax.analysis import reuse
from aggnets_jax.analysis.output_gradients import measured_paths
from aggnets_jax.analysis.reuse import by_distance, of_output, uses
from aggnets_jax.analysis.shortcut_weights import shortcut_weights
from aggnets_jax.analysis.weights import heat_maps
from aggnets_jax.errors import UserError
from tests.analysis.networks import restored

NAN = np.nan


def test_readers_are_as_many_as_would_be_as_diverse():
    matrix = np.array([[NAN] * 3, [1, NAN, NAN], [1, 0.75, NAN], [1, 0.25, 0.0]])
    even = of_output(matrix, 0)
    assert even == pytest.approx(
        {"readers": 3, "effective_readers": 3, "late": 2 / 3, "mean_distance": 2}
    )
    uneven = of_output(matrix, 1)
    # 2^H with H in bits: 1 / (0.75^0.75 0.25^0.25)
    assert uneven["effective_readers"] == pytest.approx(0.75**-0.75 * 0.25**-0.25)
    assert (uneven["late"], uneven["mean_distance"]) == (0.25, 1.25)
    assert of_output(matrix, 2) == {}
    assert by_distance(matrix) == pytest.approx({1: 1.75 / 4, 2: 1.25 / 4, 3: 1 / 4})


def test_the_use_is_what_the_network_has(data_dir, tmp_path, capsys):
    network = restored(data_dir, "sparsenet", depth=7, growth_rate=4)
    for name, use in uses(network).items():
        assert use.by == "weights"
        np.testing.assert_array_equal(use.matrix, heat_maps(network)[name])

    reuse.run(network, SimpleNamespace(workdir="w"), tmp_path)
    assert "effective readers" in capsys.readouterr().out
    with (tmp_path / "reuse.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["stage"] == "stage2"]
    assert [int(row["readers"]) for row in rows] == [2, 1]
    with (tmp_path / "reuse_distances.csv").open() as file:
        shares = [float(r["share"]) for r in csv.DictReader(file) if r["stage"] == "stage2"]
    assert sum(shares) == pytest.approx(1)
    assert (tmp_path / "reuse.png").read_bytes().startswith(b"\x89PNG")


def test_without_weights_of_concatenations_links_count_by_what_scales_them(data_dir):
    dsnet = restored(data_dir, "ds2net_cifar", stage_depths=(3,), width=25)
    use = uses(dsnet)["stage1"]
    assert use.by == "shortcuts"
    expected = shortcut_weights(dsnet)["stage1"].means()
    np.fill_diagonal(expected, NAN)  # is within layers
    np.testing.assert_array_equal(use.matrix, expected)

    sums = restored(data_dir, "sparsenet", depth=7, growth_rate=4, aggregation="sum")
    use = uses(sums)["stage1"]
    assert use.by == "links"
    assert use.matrix[1, 0] == use.matrix[2, 0] == use.matrix[2, 1] == 1
    assert np.isfinite(use.matrix).sum() == 3


def test_networks_without_links_are_refused(data_dir):
    network = restored(data_dir, "resnet8_cifar")
    for analyse in (uses, lambda network: measured_paths(network, jnp.zeros((1, 8, 8, 1)))):
        with pytest.raises(UserError, match="'resnet8_cifar' has no stage with links"):
            analyse(network)
