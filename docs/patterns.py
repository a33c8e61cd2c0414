"""Draws docs/patterns.png: python docs/patterns.py."""

from pathlib import Path

from matplotlib.figure import Figure

from aggnets_jax import make_topology
from aggnets_jax.connectivity.drawing import draw_topology


def draw(file: Path) -> None:
    """Draws the dense, the sparse and a windowed pattern side by side."""
    figure = Figure(figsize=(12, 2.6), dpi=150)
    patterns = [
        make_topology("dense", 12),
        make_topology("sparse", 12),
        make_topology("windowed", 12),
    ]
    for topology, axes in zip(patterns, figure.subplots(1, 3, sharey=True), strict=True):
        draw_topology(topology, axes)
        axes.set_ylim(-0.7, 4.6)
    figure.tight_layout(w_pad=2)
    figure.savefig(file)


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".png"))
