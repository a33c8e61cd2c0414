"""Table 1: formulas against what is counted, and a network against itself under other patterns."""

import csv
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax import create_model, make_topology
from aggnets_jax.analysis import pattern_costs as analysis
from aggnets_jax.analysis.pattern_costs import (
    bound,
    longest_by_distance,
    number_of_links,
    sparse_base,
)
from aggnets_jax.commands import make_parser
from tests.analysis.networks import restored


@pytest.mark.parametrize("depth", [1, 2, 3, 8, 9, 26, 27, 40])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("plain", {}),
        ("dense", {}),
        ("sparse", {}),
        ("sparse", {"base": 3}),
        ("sparse", {"base": 5}),
    ],
)
def test_formulas_are_what_is_counted(name, arguments, depth):
    topology = make_topology(name, depth, **arguments)
    assert number_of_links(topology) == topology.num_links
    longest = longest_by_distance(topology.shortest_paths())
    assert len(longest) == depth + 1
    for distance in range(1, depth + 2):
        assert bound(topology, distance) == max(longest[:distance])
        if (base := sparse_base(topology)) is not None:  # the paper's O((c - 1) log S)
            digits = math.floor(math.log(distance, base) + 1e-9) + 1
            assert bound(topology, distance) <= (base - 1) * digits


def test_patterns_without_a_formula_have_none():
    for name in ("windowed", "harmonic", "random"):
        topology = make_topology(name, 6)
        assert number_of_links(topology) is None
        assert bound(topology, 3) is None
        assert sparse_base(topology) is None


@pytest.mark.slow
def test_rows_are_the_networks_own_stages_and_those_of_other_patterns(data_dir, tmp_path, capsys):
    network = restored(data_dir, "sparsenet", depth=7, growth_rate=4)
    analysis.run(network, make_parser("analyse").parse(["topology", "--workdir=w"]), tmp_path)
    assert "3 of 3" in capsys.readouterr().out
    with (tmp_path / "topology.csv").open() as file:
        rows = {(row["stage"], row["pattern"]): row for row in csv.DictReader(file)}
    names = ("sparse", "plain")  # with one layer sparse and dense are the same
    assert list(rows) == [(f"stage{n}", pattern) for n in (1, 2, 3) for pattern in names]
    for pattern in names:
        model = create_model("sparsenet", 10, depth=7, growth_rate=4, topology=pattern)
        variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
        for stage in ("stage1", "stage2", "stage3"):
            leaves = jax.tree.leaves(variables["params"][stage])
            expected = sum(math.prod(leaf.shape) for leaf in leaves)
            assert int(rows[stage, pattern]["parameters"]) == expected
    row = rows["stage2", "sparse"]
    assert (row["links"], row["links_formula"], row["features"]) == ("1", "1", "1")
    assert (row["longest_path"], row["path_bound"], row["measured_path"]) == ("1.0", "1", "1.0")
    assert (row["parameters_order"], row["path_order"]) == ("N log N", "log N")
    assert rows["stage2", "plain"]["measured_path"] == ""
    assert (tmp_path / "topology.png").read_bytes().startswith(b"\x89PNG")


def test_pairs_that_disagree_are_counted():
    stage = analysis.StageLinks(make_topology("sparse", 3), make_topology("sparse", 3).links)
    measured = make_topology("sparse", 3).shortest_paths()
    measured[4, 0], measured[3, 1] = 3, np.inf
    row = analysis.describe("stage1", analysis.Pattern(stage, 7, measured), sums=True)
    assert (row["pairs"], row["pairs_that_agree"], row["measured_path"]) == (10, 8, 3)
    assert (row["parameters_order"], row["parameters"]) == ("N", 7)
