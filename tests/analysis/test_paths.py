"""Path lengths: counts against enumeration, gradients along paths against products of matrices."""

import csv
import itertools
import random

import numpy as np
import pytest

from aggnets_jax import make_topology
from aggnets_jax.analysis import command, paths
from aggnets_jax.analysis.paths import count_paths, draw_paths, mean_length, path_of, stage_paths
from aggnets_jax.analysis.taps import stages_of
from aggnets_jax.commands import make_parser
from aggnets_jax.connectivity.links import StageLinks
from aggnets_jax.errors import UserError
from tests.analysis.networks import gradients_behind, linear, walks

STAGES = [
    (make_topology("dense", 3), "concat", False, 1),
    (make_topology("sparse", 4), "sum", False, 1),
    (make_topology("dense", 3), "sum", True, 1),
    (make_topology("windowed", 5, window=3), "concat", False, 3),
]


@pytest.mark.parametrize("stage", STAGES, ids=["concat", "sum", "shortcuts", "slices"])
def test_gradients_by_length_are_those_of_all_walks(stage):
    network, images, labels = linear(stage)
    _, _, _, slices = stage
    found = stage_paths(network, images, labels, samples=100)["stage1"]
    by_length = {}  # of each image: the gradients at the input, and the input, of each path
    for image, behind in enumerate(gradients_behind(network, images, labels)):
        for walk in walks(network, 1, behind):
            if walk.ends_at < slices:
                by_length.setdefault(walk.length, ([], []))[image].append(walk)
    assert found.lengths == sorted(by_length)
    for number, length in enumerate(found.lengths):
        of_images = by_length[length]
        assert found.paths[number] == found.sampled[number] == len(of_images[0])
        norms = [np.linalg.norm(walk.gradient) for each in of_images for walk in each]
        assert found.mean_norms[number] == pytest.approx(np.mean(norms), rel=1e-4)
        together = []
        for each in of_images:
            sums = np.zeros((slices, 3))
            for walk in each:
                sums[walk.ends_at] += walk.gradient
            together.append(np.linalg.norm(sums))
        assert found.together[number] == pytest.approx(np.mean(together), rel=1e-4)
    expected = [n * m for n, m in zip(found.paths, found.mean_norms, strict=True)]
    np.testing.assert_allclose(found.gradient, expected)


@pytest.mark.parametrize("name", ["plain", "dense", "sparse", "harmonic"])
def test_counts_are_powers_of_the_adjacency_and_each_number_is_a_path_of_its_own(name):
    topology = make_topology(name, 6)
    stage = StageLinks(topology, topology.links)
    counts = count_paths(stage)[7]
    adjacency = np.zeros((8, 8), int)
    adjacency[tuple(zip(*topology.links, strict=True))] = 1
    for links in range(1, 8):
        # One link, that into the output, goes through no layer.
        assert counts.get(links - 1, 0) == np.linalg.matrix_power(adjacency, links)[7, 0]
    for length, count in counts.items():
        all_paths = [path_of(stage, count_paths(stage), length, n) for n in range(count)]
        assert len({tuple(path) for path in all_paths}) == count
        for path in all_paths:
            ends = [7, *(step.source for step in path)]
            assert ends[-1] == 0
            assert {(a, b) for a, b in itertools.pairwise(ends)} <= set(topology.links)


def test_paths_of_a_residual_stage_are_choices_of_layers():
    topology = make_topology("plain", 5)
    stage = StageLinks(topology, topology.links[:-1])
    assert count_paths(stage)[5] == {0: 1, 1: 5, 2: 10, 3: 10, 4: 5, 5: 1}  # Veit et al., Fig. 6a


def test_paths_beyond_the_numbers_of_a_machine_are_drawn():
    topology = make_topology("dense", 90)
    stage = StageLinks(topology, topology.links)
    counts = count_paths(stage)
    assert counts[91][45] > 2**64
    drawn = draw_paths(stage, counts, 45, 5, random.Random(0))
    assert all(sum(step.length for step in path) == 45 for path in drawn)
    assert len({tuple(path) for path in drawn}) == 5


def test_lengths_are_weighed():
    assert mean_length([0, 1, 4], [1, 0, 3]) == 3
    assert np.isnan(mean_length([1, 2], [0, 0]))


def test_the_command_writes_a_table_and_a_picture(tmp_path, capsys, monkeypatch):
    network, images, labels = linear(*[(make_topology("sparse", 2), "concat")] * 3)
    monkeypatch.setattr(command, "first_images", lambda *_: (images, labels))
    arguments = ["paths", "--workdir=w", "--samples=1", "--stages=stage3"]
    paths.run(network, make_parser("analyse").parse(arguments), tmp_path)
    assert "effective" in capsys.readouterr().out
    with (tmp_path / "paths.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["stage"], r["length"], r["paths"], r["sampled"]) for r in rows] == [
        ("stage3", "1", "2", "1"),
        ("stage3", "2", "1", "1"),
    ]
    # Of one path what all carry together is what it carries.
    assert float(rows[1]["together"]) == pytest.approx(float(rows[1]["mean_norm"]))
    assert (tmp_path / "paths.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="--samples must be at least 1, not 0"):
        paths.run(network, make_parser("analyse").parse([*arguments, "--samples=0"]), tmp_path)


def test_more_images_than_fit_at_once_are_run_in_parts(monkeypatch):
    network, images, labels = linear((make_topology("dense", 3), "concat"))
    assert list(stages_of(network)) == ["stage1"]
    at_once = stage_paths(network, images, labels, samples=1)["stage1"]
    monkeypatch.setattr(paths, "_MOST_IMAGES", 1)
    in_parts = stage_paths(network, images, labels, samples=1)["stage1"]
    np.testing.assert_allclose(in_parts.mean_norms, at_once.mean_norms, rtol=1e-5)
