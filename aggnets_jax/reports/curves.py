"""Training curves of a run, and of several networks in one figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aggnets_jax.connectivity.drawing import LONG, SHORT
from aggnets_jax.files import AnyPath, write_figure

Lines = Sequence[Mapping[str, Any]]
"""Lines of a `metrics.jsonl`."""

CURVES = {
    "train/loss": "training loss",
    "eval/loss": "evaluation loss",
    "eval/accuracy": "evaluation accuracy",
}
"""Titles of the curves. The losses have an axis each: label smoothing, mixup and the augmentation
of the images raise the loss in training alone."""


def points(lines: Lines, name: str, seed: int | None = None) -> dict[int, float]:
    """Return a metric by step; of one seed if the run has several, else the only values."""
    of_seed = f"{name}/seed{seed}"
    # Training and evaluation have a line each, also at the same step.
    pairs = [(line["step"], line.get(of_seed, line.get(name))) for line in lines]
    return {step: value for step, value in pairs if value is not None}


def draw_curve(lines: Lines, name: str, axes: Axes) -> None:
    """Draw a metric of a run by step.

    Args:
      lines: of `metrics.jsonl`.
      name: a key of `CURVES`; with the accuracy in evaluation comes the one in training.
      axes: to draw into; the axis of a loss is logarithmic.
    """
    metric = name.partition("/")[2]
    names = ["train/accuracy", name] if metric == "accuracy" else [name]
    for each in names:
        in_training = each.startswith("train")
        colour, marker = (SHORT, None) if in_training else (LONG, "o")
        label = "training" if in_training else "evaluation"
        if found := points(lines, each):
            axes.plot(*zip(*found.items(), strict=True), color=colour, marker=marker, label=label)
    _finish(axes, "accuracy" if len(names) > 1 else CURVES[name], metric)
    if len(axes.lines) > 1:
        axes.legend(frameon=False)


def save_curves(lines: Lines, file: AnyPath) -> None:
    """Draw losses and accuracy, as `draw_curve`, into a file; its suffix sets the format."""
    figure = Figure(figsize=(13, 3.6), dpi=120)
    for axes, name in zip(figure.subplots(1, 3), CURVES, strict=True):
        draw_curve(lines, name, axes)
    figure.tight_layout()
    write_figure(file, figure)


def save_several(networks: Mapping[str, Sequence[tuple[Lines, int]]], file: AnyPath) -> None:
    """Draw the curves of several networks into one figure; its suffix sets the format.

    Args:
      networks: the log of each run and its seed, by name of the network. A line is the mean over
        the seeds, and a band goes from the smallest to the largest value of a seed. The accuracy in
        training is dotted.
      file: to write.
    """
    figure = Figure(figsize=(13, 3.9), dpi=120, layout="constrained")
    panels = figure.subplots(1, 3)
    colours = matplotlib.colormaps["tab10"].colors
    for axes, name in zip(panels, CURVES, strict=True):
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
                curves = [points(lines, "train/accuracy", seed) for lines, seed in runs]
                steps, values = _over_seeds(curves)
                axes.plot(steps, values.mean(0), ":", color=colour, linewidth=1)
        _finish(axes, CURVES[name], name.partition("/")[2])
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
