"""Training curves of a run, and of several networks in one figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aggnets_jax.connectivity.drawing import LONG, SHORT
from aggnets_jax.files import AnyPath, write_figure
from aggnets_jax.reports.metrics import Metric

Lines = Sequence[Mapping[str, Any]]
"""Lines of a `metrics.jsonl`."""


def points(lines: Lines, name: str, seed: int | None = None) -> dict[int, float]:
    """Return a metric by step; of one seed if the run has several, else the only values."""
    of_seed = f"{name}/seed{seed}"
    # Training and evaluation have a line each, also at the same step.
    pairs = [(line["step"], line.get(of_seed, line.get(name))) for line in lines]
    return {step: value for step, value in pairs if value is not None}


def draw_curve(lines: Lines, curve: Metric, axes: Axes) -> None:
    """Draw a metric of a run by step.

    Args:
      lines: of `metrics.jsonl`.
      curve: of `curves_of`; with the accuracy in evaluation comes the one in training.
      axes: to draw into; the axis of a loss is logarithmic.
    """
    metric = curve.name.partition("/")[2]
    names = ["train/accuracy", curve.name] if metric == "accuracy" else [curve.name]
    for each in names:
        in_training = each.startswith("train")
        colour, marker = (SHORT, None) if in_training else (LONG, "o")
        label = "training" if in_training else "evaluation"
        if found := points(lines, each):
            axes.plot(*zip(*found.items(), strict=True), color=colour, marker=marker, label=label)
    _finish(axes, "accuracy" if len(names) > 1 else curve.title, metric)
    if len(axes.lines) > 1:
        axes.legend(frameon=False)


def save_curves(lines: Lines, file: AnyPath, curves: Sequence[Metric]) -> None:
    """Draw metrics, as `draw_curve`, into a file; its suffix sets the format."""
    figure = Figure(figsize=(13, 3.6), dpi=120)
    for axes, curve in zip(figure.subplots(1, len(curves)), curves, strict=True):
        draw_curve(lines, curve, axes)
    figure.tight_layout()
    write_figure(file, figure)


def save_several(
    networks: Mapping[str, Sequence[tuple[Lines, int]]], file: AnyPath, curves: Sequence[Metric]
) -> None:
    """Draw the curves of several networks into one figure; its suffix sets the format.

    Args:
      networks: the log of each run and its seed, by name of the network. A line is the mean over
        the seeds, and a band goes from the smallest to the largest value of a seed. The accuracy in
        training is dotted.
      file: to write.
      curves: of `curves_of`.
    """
    figure = Figure(figsize=(13, 3.9), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(curves))
    colours = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
    for axes, (name, title, _) in zip(panels, curves, strict=True):
        for number, (network, runs) in enumerate(networks.items()):
            colour, dashes = colours[number % 10], "--" if number >= 10 else "-"
            steps, values = _over_seeds([points(lines, name, seed) for lines, seed in runs])
            seeds = f" ({len(runs)} seeds)" if len(runs) > 1 else ""
            style = {"color": colour, "label": network + seeds, "linestyle": dashes}
            marker = "o" if name.startswith("eval") else None
            axes.plot(steps, values.mean(0), linewidth=1.4, marker=marker, markersize=3, **style)
            if len(runs) > 1:
                low, high = values.min(0), values.max(0)
                axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
            if name == "eval/accuracy":
                in_training = [points(lines, "train/accuracy", seed) for lines, seed in runs]
                steps, values = _over_seeds(in_training)
                axes.plot(steps, values.mean(0), ":", color=colour, linewidth=1)
        _finish(axes, title, name.partition("/")[2])
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
    )
    write_figure(file, figure)


def _over_seeds(curves: Sequence[Mapping[int, float]]) -> tuple[list[int], np.ndarray]:
    """Return the steps that all curves have, and their values [curves, steps]."""
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    return steps, np.array([[curve[step] for step in steps] for curve in curves])


def _finish(axes: Axes, title: str, metric: str) -> None:
    axes.set(xlabel="step", title=title, yscale="log" if metric == "loss" else "linear")
    axes.grid(alpha=0.25)
