"""Weights of links: how heavily each layer uses each output that it reads.

In a stage that concatenates, the number of a link is the mean absolute weight of its source's
channels in the layer's first convolution, divided by the layer's largest such number.

    DenseNet, arXiv 1608.06993, Section 5 and Fig. 5     by layer and source of a dense block
    SparseNet, arXiv 1801.05895, Section 4.6 and Fig. 3  the same, "rescaled between 0 and 1 for
                                                         each layer"
    SeqConv, arXiv 1811.10798, Section 4.5 and Fig. 5    by group and group within a layer, in the
                                                         exploded view: each slice of a layer's
                                                         input is a source

"Rescaled" means divided by the largest, so 0 is a weight of 0. If the smallest number became 0,
each layer with several sources would have a blue square even if it used them evenly. Fig. 5 shows
"hardly any".
"""

import argparse
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

from aggnets_jax.analysis import command
from aggnets_jax.analysis.plots import draw_heat_maps
from aggnets_jax.analysis.readers import Reader, find_readers, weight_by_channel
from aggnets_jax.analysis.taps import choose, empty_matrix, stages_of
from aggnets_jax.connectivity.links import StageLinks
from aggnets_jax.connectivity.patterns import Link
from aggnets_jax.errors import UserError
from aggnets_jax.files import AnyPath
from aggnets_jax.workdir.restore import Restored

LABEL = "mean |w| / largest of the layer"


class StageWeights(NamedTuple):
    """The weights of a stage's links, read by `find_readers`.

    `means` is the matrix of mean absolute weights, float64; NaN for links without a reader, too.
    """

    links: StageLinks
    readers: Mapping[Link, Reader]
    means: np.ndarray


def link_weights(restored: Restored) -> dict[str, StageWeights]:
    """Compute the mean absolute weights of links in stages that concatenate several outputs."""
    stages = stages_of(restored)
    found = {}
    for name, readers in find_readers(restored, stages).items():
        layers = [layer for layer, _ in readers]
        if len(layers) == len(set(layers)):
            continue  # no layer reads two
        means = empty_matrix(stages[name])
        for link, reader in readers.items():
            params = restored.variables["params"]
            for key in reader.path:
                params = params[key]
            weights = weight_by_channel(params["kernel"], reader.groups)
            means[link] = weights[reader.channels].mean()
        found[name] = StageWeights(stages[name], readers, means)
    return found


def normalised(means: np.ndarray) -> np.ndarray:
    """Divide the numbers of each layer in a matrix by their largest; 0 if all of them are 0."""
    largest = np.max(np.nan_to_num(means), axis=1, keepdims=True)
    return means / np.where(largest > 0, largest, 1)


def colour_limits(maps: Iterable[np.ndarray]) -> tuple[float, float]:
    """Return the numbers at both ends of the colours of `normalised` maps.

    They are 0 and 1, as in the papers, unless all numbers are large and would look alike.
    """
    least = min(float(np.nanmin(each)) for each in maps)
    return (0.0 if least < 0.5 else min(math.floor(100 * least) / 100, 0.99)), 1.0


def heat_maps(restored: Restored) -> dict[str, np.ndarray]:
    """Compute the matrices that the papers draw, float64 in 0..1, by stage.

    Stages that add their inputs are left out, as their links have no weights.
    """
    return {name: normalised(stage.means) for name, stage in link_weights(restored).items()}


add_arguments = command.add_stages


def run(restored: Restored, given: argparse.Namespace, output: AnyPath) -> None:
    """Print, write and draw the weights of links."""
    found = link_weights(restored)
    if not found:
        raise UserError(
            f"{restored.config.model.name} concatenates nowhere, so its links have no weights of"
            " their own; for DSNet's shortcuts there is the analysis 'shortcuts'"
        )
    found = choose(found, given.stages)
    maps = {name: normalised(stage.means) for name, stage in found.items()}
    rows = [
        {
            "stage": name,
            "layer": layer,
            "source": source,
            "mean_absolute_weight": stage.means[layer, source],
            "normalised": maps[name][layer, source],
            "channels": int(reader.channels.sum()),
            "reader": "/".join(reader.path),
        }
        for name, stage in found.items()
        for (layer, source), reader in stage.readers.items()
    ]
    links = {name: stage.links for name, stage in found.items()}
    figure = draw_heat_maps(maps, links, limits=colour_limits(maps.values()), label=LABEL)
    title = command.headline(restored, given, LABEL)
    shown = [_summary(name, stage) for name, stage in found.items()]
    command.publish(output, title, shown, {"weights": rows}, figure, tight=True)


def _summary(name: str, stage: StageWeights) -> dict[str, str]:
    """Return a row of the printed table: is all used (Fig. 3), and less over a longer distance?"""
    shares = normalised(stage.means)
    values = np.array([shares[link] for link in stage.readers])
    distances = np.array([layer - source for layer, source in stage.readers])
    varied = min(np.ptp(values), np.ptp(distances)) > 0
    correlation = stats.spearmanr(distances, values).statistic if varied else np.nan
    return {
        "stage": name,
        "pattern": stage.links.topology.name,
        "links": str(len(values)),
        "mean": f"{values.mean():.3f}",
        "least": f"{values.min():.3f}",
        "above 0.5": f"{(values > 0.5).mean():.0%}",
        "rank correlation with distance": f"{correlation:.2f}" if varied else "",
    }
