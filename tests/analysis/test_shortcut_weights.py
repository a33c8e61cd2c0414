"""Learnt weights of shortcuts: by the names of DSNet's parameters."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest

from aggnets_jax.analysis import shortcut_weights as analysis
from aggnets_jax.analysis.shortcut_weights import shortcut_weights
from aggnets_jax.commands import make_parser
from aggnets_jax.errors import UserError
from tests.analysis.networks import restored

TINY = {"stage_depths": (3, 4), "width": 25}


def test_weights_are_the_rows_of_each_layers_sources(data_dir, tmp_path, capsys):
    network = restored(data_dir, "ds2net_cifar", **TINY)
    params = network.variables["params"]
    found = shortcut_weights(network)
    assert list(found) == ["stage1", "stage2"]
    for name, depth in (("stage1", 2), ("stage2", 3)):
        expected = np.full([depth + 2, depth + 1], np.nan)
        for layer in range(1, depth + 1):
            dense = np.asarray(params[name][f"weights{layer}"]["weights"])
            assert len(dense) == layer
            expected[layer, :layer] = [np.mean(np.abs(row)) for row in dense]
            within = params[name][f"layer{layer}"]["inner_shortcut"]["weights"]
            expected[layer, layer] = np.mean(np.abs(within))
        if name == "stage1":  # the other one opens at stride 2
            within = params["stage1_opening"]["inner_shortcut"]["weights"]
            expected[0, 0] = np.mean(np.abs(within))
        np.testing.assert_allclose(found[name].means(), expected, rtol=1e-6)

    analysis.run(network, SimpleNamespace(workdir="w"), tmp_path)
    assert "within layers" in capsys.readouterr().out
    with (tmp_path / "shortcuts.csv").open() as file:
        rows = {(r["stage"], int(r["layer"]), int(r["source"])): r for r in csv.DictReader(file)}
    assert len(rows) == 3 + 6 + 3 + 3
    row, weights = rows["stage2", 3, 1], np.asarray(params["stage2"]["weights3"]["weights"][1])
    numbers = {name: float(row[name]) for name in ("mean", "std", "least", "largest")}
    assert numbers == pytest.approx(
        {
            "mean": weights.mean(),
            "std": weights.std(),
            "least": min(weights),
            "largest": max(weights),
        }
    )
    assert (tmp_path / "shortcuts.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["resnet_cifar", "dsnet_cifar_noweight"])
def test_networks_without_learnt_shortcuts_are_refused(data_dir, tmp_path, name):
    network = restored(data_dir, name, **TINY)
    with pytest.raises(UserError, match=f"{name} has no shortcuts with learnt weights"):
        analysis.run(network, SimpleNamespace(workdir="w"), tmp_path)


def test_it_is_a_command():
    assert make_parser("analyse").parse(["shortcuts", "--workdir=w"]).analysis == "shortcuts"
