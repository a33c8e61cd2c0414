"""Pictures show each link once, and the pictures of the documentation can be drawn again."""

import importlib.util

import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Arc

from aggnets_jax import make_topology
from aggnets_jax.connectivity.drawing import draw_topology, save_topologies
from aggnets_jax.reports.curves import save_curves
from aggnets_jax.reports.metrics import curves_of
from tests import runs


@pytest.mark.parametrize("name", ["plain", "dense", "sparse", "fractal", "harmonic", "random"])
def test_each_link_is_an_arc_between_its_ends(name):
    topology = make_topology(name, 11)
    axes = Figure().subplots()
    draw_topology(topology, axes)
    arcs = [patch for patch in axes.patches if isinstance(patch, Arc)]
    ends = {(arc.center[0] + arc.width / 2, arc.center[0] - arc.width / 2) for arc in arcs}
    assert ends == set(topology.links)
    assert len(arcs) == len(topology.links)
    # Nothing is cut off.
    assert max(arc.height / 2 for arc in arcs) < axes.get_ylim()[1]
    assert axes.get_xlim()[0] < 0 and axes.get_xlim()[1] > topology.depth + 1


def test_pictures_are_written(tmp_path):
    save_topologies([make_topology("sparse", 5), make_topology("dense", 9)], tmp_path / "t.png")
    lines = [{"step": 1, "train/loss": 2.0, "train/accuracy": 0.1}, {"step": 2, "eval/loss": 1.0}]
    save_curves(lines, tmp_path / "c.png", curves_of({"loss": 1.0, "accuracy": 0.5}))
    for name in ("t.png", "c.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_the_picture_in_the_readme_is_drawn_by_the_code(tmp_path):
    spec = importlib.util.spec_from_file_location("patterns", runs.ROOT / "docs" / "patterns.py")
    patterns = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(patterns)
    patterns.draw(tmp_path / "patterns.png")
    assert (tmp_path / "patterns.png").stat().st_size > 10_000
    assert "docs/patterns.png" in (runs.ROOT / "README.md").read_text()
