"""Training curves of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aggnets_jax.connectivity.drawing import LONG, SHORT
from aggnets_jax.files import AnyPath, write_figure


def draw_curve(lines: Sequence[Mapping[str, Any]], name: str, axes: Axes) -> None:
    """Draw a metric in training and evaluation by step.

    Args:
      lines: of `metrics.jsonl`.
      name: "loss", whose axis is logarithmic, or "accuracy".
      axes: to draw into.
    """
    for part, colour, marker in (("train", SHORT, None), ("eval", LONG, "o")):
        key = f"{part}/{name}"
        points = [(line["step"], line[key]) for line in lines if key in line]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, label=part)
    axes.set(xlabel="step", title=name, yscale="log" if name == "loss" else "linear")
    axes.grid(alpha=0.25)
    if axes.lines:
        axes.legend(frameon=False)


def save_curves(lines: Sequence[Mapping[str, Any]], file: AnyPath) -> None:
    """Draw loss and accuracy, as `draw_curve`, into a file; its suffix sets the format."""
    figure = Figure(figsize=(10, 3.6), dpi=120)
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        draw_curve(lines, name, axes)
    figure.tight_layout()
    write_figure(file, figure)
