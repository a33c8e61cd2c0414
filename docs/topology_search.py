"""Draws docs/topology_search.png of results/topology_search*: python docs/topology_search.py."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from aggnets_jax.analysis.plots import draw_heat_map
from aggnets_jax.connectivity.drawing import ACCENT, INK, LONG, draw_topology
from aggnets_jax.connectivity.topology import Topology, make_topology

RESULTS = Path(__file__).parents[1] / "results"
TITLES = {"learnt_l1": "L1", "learnt_topk": "top-k"}


def draw_weights(axes: Axes, stage: dict[str, Any], title: str) -> None:
    """Draws what was learnt of each link; a frame is around those that are kept."""
    depth = stage["depth"]
    weights = np.full((depth + 2, depth + 1), np.nan)
    for layer, source, weight in stage["weights"]:
        weights[layer, source] = weight
    draw_heat_map(axes, weights, make_topology("dense", depth), limits=(0, 1), colours="Blues")
    for layer, source in stage["edges"]:
        corner = (layer - 0.46, source - 0.46)
        axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor=LONG, linewidth=1.4))
    axes.set_title(title, fontsize=10, color=INK)


def draw_pattern(axes: Axes, stage: dict[str, Any], name: str) -> None:
    """Draws the links that are kept."""
    sources = [[] for _ in range(stage["depth"] + 1)]
    for layer, source in stage["edges"]:
        sources[layer - 1].append(source)
    draw_topology(Topology(name, tuple(map(tuple, sources))), axes)


def draw_differences(axes: Axes) -> None:
    """Draws how much larger the error of each pattern is than that of the reference."""
    with (RESULTS / "topology_search_differences.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["measure"] == "error"][::-1]
    for place, row in enumerate(rows):
        low, middle, high = (
            float(row[name]) for name in ("interval_low", "difference", "interval_high")
        )
        axes.plot([low, high], [place, place], color=INK, linewidth=1.5)
        axes.plot(middle, place, "o", color=ACCENT, markersize=6)
    axes.axvline(0, color=INK, linewidth=0.6, linestyle=":")
    axes.set_yticks(range(len(rows)), [Path(row["network"]).name for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(
        f"error in points above that of {Path(rows[0]['against']).name}: mean of"
        f" {rows[0]['pairs']} pairs and 95 % interval"
    )
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def draw(file: Path) -> None:
    """Draws weights, patterns and differences."""
    learnt = json.loads((RESULTS / "topology_search.json").read_text())
    figure = Figure(figsize=(11, 9.5), dpi=110)
    grid = figure.add_gridspec(3, 2, height_ratios=(4.6, 2.4, 2.6))
    for column, (name, title) in enumerate(TITLES.items()):
        (stage,) = learnt[name]["stages"].values()
        draw_weights(figure.add_subplot(grid[0, column]), stage, f"{title}: weights, and kept")
        draw_pattern(figure.add_subplot(grid[1, column]), stage, name)
    draw_differences(figure.add_subplot(grid[2, :]))
    figure.set_layout_engine("constrained")
    figure.savefig(file)


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".png"))
