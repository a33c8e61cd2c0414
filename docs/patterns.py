"""Draws docs/patterns.png: python docs/patterns.py."""

from pathlib import Path

from matplotlib.figure import Figure

from aggnets_jax import make_topology
from aggnets_jax.connectivity.drawing import draw_topology

# Name and height of the plot.
PATTERNS = {"plain": 1.7, "windowed": 1.7, "sparse": 4.3, "dense": 4.3}


def draw(file: Path) -> None:
    """Draw four patterns of twelve layers, from few links to all."""
    figure = Figure(figsize=(12, 4.4), dpi=120, layout="constrained")
    plots = figure.subplots(2, 2, height_ratios=(2.3, 4.9))
    for axes, (name, height) in zip(plots.flat, PATTERNS.items(), strict=True):
        draw_topology(make_topology(name, 12), axes)
        axes.set_ylim(-0.6, height)
    figure.savefig(file, bbox_inches="tight")


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".png"))
