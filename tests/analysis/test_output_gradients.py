"""Gradients by length: on linear networks, whose gradients are products of matrices."""

import csv
import itertools

import jax
import numpy as np
import pytest

from aggnets_jax import create_model, make_topology
from aggnets_jax.analysis import command, output_gradients
from aggnets_jax.analysis.command import first_images
from aggnets_jax.analysis.output_gradients import gradient_norms, measured_paths, shortest_paths
from aggnets_jax.analysis.taps import stages_of, tapped
from aggnets_jax.commands import make_parser
from aggnets_jax.errors import UserError
from aggnets_jax.evaluate import evaluation_batches
from aggnets_jax.runtime.mesh import make_mesh
from tests.analysis.networks import gradients_behind, linear, restored, walks
from tests.models.tiny import TINY
from tests.models.variables import random_variables

PATTERNS = [
    make_topology("dense", 3),
    make_topology("sparse", 5),
    make_topology("sparse", 4, base=3),
]
DEEP_PATTERNS = [
    make_topology("plain", 9),
    make_topology("dense", 12),
    make_topology("sparse", 16),
    make_topology("windowed", 9, window=2),
    make_topology("harmonic", 12),
    make_topology("fractal", 7),
    make_topology("random", 9, density=0.3),
]


@pytest.mark.parametrize("family", ["sparsenet", "dsnet_cifar_a"])
def test_taps_leave_the_program_as_it_is(family):
    arguments, side = TINY[family]
    model = create_model(family, 3, **arguments)
    variables = random_variables(model, side, np.float32)
    images = np.zeros((2, side, side, 3), np.float32)

    def program():
        return str(jax.make_jaxpr(lambda v: model.apply(v, images)[0])(variables))

    plain, seen = program(), []
    with tapped(written=lambda stage, layer, value: seen.append((stage, layer)) or value):
        assert program() == plain
    assert ("stage1", 0) in seen
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize(
    "patterns", [PATTERNS, pytest.param(DEEP_PATTERNS, marks=pytest.mark.slow)]
)
def test_gradients_arrive_after_as_many_links_as_the_shortest_path_has(patterns):
    network, images, _ = linear(
        *[(pattern, "concat" if n % 2 else "sum") for n, pattern in enumerate(patterns)],
        (make_topology("sparse", 3), "sum", True),
    )
    measured = measured_paths(network, images)
    for pattern, found in zip(patterns, measured.values(), strict=False):
        np.testing.assert_array_equal(found, pattern.shortest_paths())
    # Of shortcuts nothing goes through a layer, and the output is the last one's.
    of_shortcuts = make_topology("sparse", 3).shortest_paths()[:4]
    np.testing.assert_array_equal(measured[f"stage{len(patterns) + 1}"][:4], of_shortcuts)


def test_where_a_layer_passes_nothing_on_gradients_take_another_way():
    network, images, _ = linear((make_topology("sparse", 8), "concat"))
    params = network.variables["params"]["stage1"]
    params["layer6"]["kernel"] = np.zeros_like(params["layer6"]["kernel"])
    lengths = measured_paths(network, images)["stage1"]
    links = [link for link in make_topology("sparse", 8).links if link[0] != 6]
    # Independent: powers of the adjacency count the ways of each length.
    adjacency = np.zeros((10, 10), int)
    adjacency[tuple(zip(*links, strict=True))] = 1
    expected = np.full((10, 10), np.inf)
    for length in reversed(range(10)):
        expected[np.linalg.matrix_power(adjacency, length) > 0] = length
    expected[expected > 3] = np.inf  # as long as any path of the stage would be
    np.testing.assert_array_equal(lengths, expected)
    assert (lengths != make_topology("sparse", 8).shortest_paths()).any()


def test_slices_of_the_input_are_not_ways_to_each_other():
    topology = make_topology("windowed", 6, window=3)
    network, images, labels = linear((topology, "concat", False, 3))
    stage = stages_of(network)["stage1"]
    found = {}
    for walk in walks(network, 1, gradients_behind(network, images, labels)[0]):
        found[walk.ends_at] = min(walk.links, found.get(walk.ends_at, 99))
    paths = shortest_paths(stage)
    assert {source: paths[7, source] for source in found} == found
    assert np.isinf(paths[2, :2]).all()
    np.testing.assert_array_equal(measured_paths(network, images)["stage1"], paths)


@pytest.mark.parametrize(("aggregation", "shortcuts"), [("concat", False), ("sum", True)])
def test_norms_are_those_of_the_sums_over_all_ways(aggregation, shortcuts):
    network, images, labels = linear(
        (make_topology("plain", 1), "sum"), (make_topology("dense", 4), aggregation, shortcuts)
    )
    norms = gradient_norms(network, images, labels)["stage2"]
    expected = np.zeros((6, 2))
    for image, behind in enumerate(gradients_behind(network, images, labels)):
        sums = np.zeros((5, 3))
        for walk in walks(network, 2, behind):
            sums[walk.ends_at] += walk.gradient
        expected[:5, image] = np.linalg.norm(sums, axis=1)
        if not shortcuts:
            expected[5, image] = np.linalg.norm(behind)
    np.testing.assert_allclose(norms, expected, rtol=1e-4)


def test_the_command_writes_a_table_and_a_picture(tmp_path, capsys, monkeypatch):
    network, images, labels = linear((make_topology("sparse", 2), "concat"))
    monkeypatch.setattr(command, "first_images", lambda *_: (images, labels))
    output_gradients.run(
        network, make_parser("analyse").parse(["gradients", "--workdir=w"]), tmp_path
    )
    assert "of 2 images" in capsys.readouterr().out
    with (tmp_path / "gradients.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert all(row["shortest_path"] == row["measured_path"] for row in rows)
    assert all(float(row["gradient_norm"]) > 0 for row in rows)
    assert (tmp_path / "gradients.png").read_bytes().startswith(b"\x89PNG")


def test_images_are_the_first_of_the_test_set(data_dir):
    network = restored(data_dir, "sparsenet", depth=7, growth_rate=4)
    images, labels = first_images(
        network, make_parser("analyse").parse(["gradients", "--workdir=w", "--count=70"])
    )
    first, second = itertools.islice(evaluation_batches(network, make_mesh()), 2)
    assert images.shape == (70, 8, 8, 1)
    stored = np.concatenate([first["image"], second["image"]])[:70] / 255
    np.testing.assert_allclose(images, (stored - 0.30543369) / 0.37595716, atol=1e-5)
    assert labels.tolist() == [*first["label"].tolist(), *second["label"].tolist()][:70]
    with pytest.raises(UserError, match="--count must be at least 1, not 0"):
        first_images(
            network, make_parser("analyse").parse(["gradients", "--workdir=w", "--count=0"])
        )
