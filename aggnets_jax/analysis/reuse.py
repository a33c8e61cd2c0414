"""Reuse of features: how many layers read an output, how evenly, and from how far away.

DenseNet, arXiv 1608.06993, Section 5, asks whether layers take advantage of features from far back;
here that is a distribution for each output y_s: the share of all use of it that is at layer l. The
use is what the papers' heat maps show (`weights`, of each layer relative to its largest), in DSNet
the learnt weight of the shortcut (`shortcuts`), and the same for all links in other stages that
add. Of the distribution there are

    readers            layers that read the output, the stage's output among them
    effective readers  exp(entropy): as many readers of equal use would be as diverse; the number of
                       order 1 of Hill, "Diversity and Evenness", Ecology 54, 1973
    late               the share of layers beyond the next, l > s + 1
    mean distance      of l - s, weighted by the shares

and for a stage the share of each distance in the use of all outputs together.
"""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from aggnets_jax import tables
from aggnets_jax.analysis.shortcuts import shortcut_weights
from aggnets_jax.analysis.taps import stages_of
from aggnets_jax.analysis.weights import heat_maps
from aggnets_jax.workdir.restore import Restored


class Use(NamedTuple):
    """How much use a stage makes of its links.

    Attributes:
      by: what that is, "weights", "shortcuts" or "links".
      matrix: float64 [N + 2, N + 1] by layer and source; NaN where there is no link, or no number
        for it.
    """

    by: str
    matrix: np.ndarray


def uses(restored: Restored) -> dict[str, Use]:
    """The use of links by stage, see the top of this file.

    Args:
      restored: with the variables of one network.
    """
    weights, shortcuts = heat_maps(restored), shortcut_weights(restored)
    found = {}
    for name, stage in stages_of(restored).items():
        if name in weights:
            found[name] = Use("weights", weights[name])
            continue
        matrix = np.full([stage.topology.depth + 2, stage.topology.depth + 1], np.nan)
        of_shortcuts = shortcuts[name].means() if name in shortcuts else matrix
        for link in stage.links:
            matrix[link] = 1 if np.isnan(of_shortcuts[link]) else of_shortcuts[link]
        found[name] = Use("shortcuts" if name in shortcuts else "links", matrix)
    return found


def of_output(matrix: np.ndarray, source: int) -> dict[str, float]:
    """The numbers of one output, without a use of which there is none.

    Args:
      matrix: float [N + 2, N + 1], see `Use`.
      source: the output.
    """
    layers = np.flatnonzero(np.isfinite(matrix[:, source]))
    total = matrix[layers, source].sum()
    if not total > 0:
        return {}
    shares, distances = matrix[layers, source] / total, layers - source
    return {
        "readers": len(layers),
        "effective_readers": float(np.exp(stats.entropy(shares))),
        "late": float(shares[distances > 1].sum()),
        "mean_distance": float(shares @ distances),
    }


def by_distance(matrix: np.ndarray) -> dict[int, float]:
    """The share of each distance in the use of all links of a stage; they sum to 1."""
    layers, sources = np.nonzero(np.isfinite(matrix))
    totals = np.bincount(layers - sources, matrix[layers, sources])
    there = np.unique(layers - sources)
    shares = totals[there] / max(totals.sum(), np.finfo(float).tiny)
    return dict(zip(there.tolist(), shares.tolist(), strict=True))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds no flags: this analysis has none of its own."""


def run(restored: Restored, given: argparse.Namespace, output: Path) -> None:
    """Does what the command line says."""
    found = uses(restored)
    rows = [
        {"stage": name, "output": source, "by": use.by, **numbers}
        for name, use in found.items()
        for source in range(use.matrix.shape[1])
        if (numbers := of_output(use.matrix, source))
    ]
    distances = [
        {"stage": name, "distance": distance, "share": share}
        for name, use in found.items()
        for distance, share in by_distance(use.matrix).items()
    ]
    title = f"{given.workdir}, step {restored.step}: use of outputs, means over a stage"
    tables.print_table([_summary(name, found[name], rows) for name in found], title)
    tables.write_csv(output / "reuse.csv", rows)
    tables.write_csv(output / "reuse_distances.csv", distances)
    draw(found, rows).savefig(output / "reuse.png")
    print(", ".join(str(output / f"reuse{end}") for end in (".csv", "_distances.csv", ".png")))


def _summary(name: str, use: Use, rows: list[dict[str, Any]]) -> dict[str, str]:
    own = [row for row in rows if row["stage"] == name]
    means = {
        column: np.mean([row[column] for row in own])
        for column in ("readers", "effective_readers", "late", "mean_distance")
    }
    return {
        "stage": name,
        "by": use.by,
        "outputs": str(len(own)),
        "readers": f"{means['readers']:.2f}",
        "effective readers": f"{means['effective_readers']:.2f}",
        "late": f"{means['late']:.0%}",
        "mean distance": f"{means['mean_distance']:.2f}",
    }


def draw(found: Mapping[str, Use], rows: list[dict[str, Any]]) -> Figure:
    """Draws for each stage the shares of distances, and the readers of each output.

    Args:
      found: from `uses`.
      rows: of the outputs, see `of_output`, with their stage and number.
    """
    columns = min(4, len(found))
    lines = math.ceil(len(found) / columns)
    figure = Figure((3.4 * columns, 4.8 * lines), dpi=120, layout="compressed")
    panels = figure.subplots(2 * lines, columns, squeeze=False)
    for axes in panels.flat:
        axes.tick_params(labelsize=7)
        axes.xaxis.get_major_locator().set_params(integer=True)
    for number, (name, use) in enumerate(found.items()):
        above, below = panels[2 * (number // columns) :, number % columns][:2]
        shares = by_distance(use.matrix)
        above.bar([*shares], [*shares.values()], color="#8fb9c7")
        above.set_title(f"{name}, by {use.by}", fontsize=9)
        above.set_xlabel("distance, layers", fontsize=8)
        above.set_ylabel("share of use", fontsize=8)
        own = [row for row in rows if row["stage"] == name]
        outputs = [row["output"] for row in own]
        below.bar(outputs, [row["readers"] for row in own], color="#d3e3e9", label="readers")
        effective = [row["effective_readers"] for row in own]
        below.plot(outputs, effective, "o", color="#c1440e", markersize=4, label="effective")
        below.set_xlabel("output", fontsize=8)
        below.set_ylabel("readers", fontsize=8)
    panels[1, 0].legend(frameon=False, fontsize=7)
    for number in range(len(found), lines * columns):
        for axes in panels[2 * (number // columns) :, number % columns][:2]:
            axes.axis("off")
    return figure
