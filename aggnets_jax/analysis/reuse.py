"""Reuse of features: how many layers read an output, how evenly, and from how far away.

DenseNet, arXiv 1608.06993, Section 5, asks whether layers take advantage of distant features. Here
the answer is a distribution for each output y_s: the share of each layer l in the use of y_s. The
use of a link is its number in the papers' heat maps (`weights`, relative to the layer's largest),
in DSNet the learnt weight of the shortcut (`shortcuts`), and 1 in other stages that add. The
numbers of a distribution are

    readers            layers that read the output, the stage's output among them
    effective readers  exp(entropy): the number of readers with equal shares and the same entropy;
                       the number of order 1 of Hill, "Diversity and Evenness", Ecology 54, 1973
    late               share of the layers after the next, l > s + 1
    mean distance      mean of l - s, weighted by the shares

and for a stage the share of each distance in the use of all outputs.
"""

import argparse
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from aggnets_jax.analysis import command
from aggnets_jax.analysis.plots import label_axes, make_panels
from aggnets_jax.analysis.shortcut_weights import shortcut_weights
from aggnets_jax.analysis.taps import empty_matrix, stages_of
from aggnets_jax.analysis.weights import heat_maps
from aggnets_jax.files import AnyPath
from aggnets_jax.workdir.restore import Restored


class Use(NamedTuple):
    """The use that a stage makes of its links, by "weights", "shortcuts" or "links".

    The matrix is float64, with NaN for links without a number, too.
    """

    by: str
    matrix: np.ndarray


def uses(restored: Restored) -> dict[str, Use]:
    """Compute the use of links by stage, see the top of this file."""
    weights, shortcuts = heat_maps(restored), shortcut_weights(restored)
    found = {}
    for name, stage in stages_of(restored).items():
        if name in weights:
            found[name] = Use("weights", weights[name])
            continue
        matrix = empty_matrix(stage)
        of_shortcuts = shortcuts[name].means() if name in shortcuts else matrix
        for link in stage.links:
            matrix[link] = 1 if np.isnan(of_shortcuts[link]) else of_shortcuts[link]
        found[name] = Use("shortcuts" if name in shortcuts else "links", matrix)
    return found


def of_output(matrix: np.ndarray, source: int) -> dict[str, float]:
    """Compute the numbers of the output `source`; nothing if it is not used."""
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
    """Return the share of each distance in the use of all links of a stage; they sum to 1."""
    layers, sources = np.nonzero(np.isfinite(matrix))
    totals = np.bincount(layers - sources, matrix[layers, sources])
    there = np.unique(layers - sources)
    shares = totals[there] / max(totals.sum(), np.finfo(float).tiny)
    return dict(zip(there.tolist(), shares.tolist(), strict=True))


def run(restored: Restored, given: argparse.Namespace, output: AnyPath) -> None:
    """Print, write and draw the use of outputs."""
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
    title = command.headline(restored, given, "use of outputs, means over a stage")
    shown = [_summary(name, use, rows) for name, use in found.items()]
    files = {"reuse": rows, "reuse_distances": distances}
    command.publish(output, title, shown, files, draw(found, rows))


def _summary(name: str, use: Use, rows: list[dict[str, Any]]) -> dict[str, str]:
    own = [row for row in rows if row["stage"] == name]

    def mean(column: str) -> float:
        return np.mean([row[column] for row in own])

    return {
        "stage": name,
        "by": use.by,
        "outputs": str(len(own)),
        "readers": f"{mean('readers'):.2f}",
        "effective readers": f"{mean('effective_readers'):.2f}",
        "late": f"{mean('late'):.0%}",
        "mean distance": f"{mean('mean_distance'):.2f}",
    }


def draw(found: Mapping[str, Use], rows: list[dict[str, Any]]) -> Figure:
    """Draw for each stage the shares of distances, and the readers of each output.

    `rows` are the numbers of outputs from `of_output`, with `stage` and `output`.
    """
    figure, panels = make_panels(len(found), 3.4, 4.8, each=2)
    for (above, below), (name, use) in zip(panels, found.items(), strict=True):
        shares = by_distance(use.matrix)
        above.bar([*shares], [*shares.values()], color="#8fb9c7")
        above.set_title(f"{name}, by {use.by}", fontsize=9)
        label_axes(above, "distance, layers", "share of use")
        own = [row for row in rows if row["stage"] == name]
        outputs = [row["output"] for row in own]
        below.bar(outputs, [row["readers"] for row in own], color="#d3e3e9", label="readers")
        effective = [row["effective_readers"] for row in own]
        below.plot(outputs, effective, "o", color="#c1440e", markersize=4, label="effective")
        label_axes(below, "output", "readers")
    panels[0, 1].legend(frameon=False, fontsize=7)
    return figure
