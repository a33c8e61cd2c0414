"""Learnt weights of dense shortcuts: the weight of each earlier output in DSNet's sums.

Zhang et al., arXiv 2010.12496:

    eq. 12       y_l = ReLU(F_l(y_{l-1}) + sum_i W[l, i] N(y_i))     W[l, i] weighs channels
    Section 3.3  u = BN(conv3x3(z)) + w N(z)                         within F_l, in DS2Net

The numbers are means of |W[l, i]| over the channels. They can be compared between sources, layers
and stages, because N gives all outputs the same scale and W starts at 1. The weights w within a
layer are on the diagonal, which is free because a layer never reads itself.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from flax import traverse_util

from aggnets_jax.analysis import command
from aggnets_jax.analysis.plots import draw_heat_maps
from aggnets_jax.analysis.taps import empty_matrix, stages_of
from aggnets_jax.connectivity.links import StageLinks
from aggnets_jax.connectivity.patterns import Link
from aggnets_jax.errors import UserError
from aggnets_jax.files import AnyPath
from aggnets_jax.workdir.restore import Restored

LABEL = "mean |W| over channels"


class ShortcutWeights(NamedTuple):
    """The learnt weights of a stage's shortcuts, by `(layer, source)`, float [channels].

    Weights within a layer are by `(layer, layer)`; the block that opens the stage is layer 0.
    """

    links: StageLinks
    weights: dict[Link, np.ndarray]

    def means(self) -> np.ndarray:
        """Compute the matrix of mean absolute weights, float64."""
        matrix = empty_matrix(self.links)
        for link, weights in self.weights.items():
            matrix[link] = np.abs(weights).mean(dtype=np.float64)
        return matrix


def shortcut_weights(restored: Restored) -> dict[str, ShortcutWeights]:
    """Return the weights of all stages with weights of shortcuts between layers."""
    params = traverse_util.flatten_dict(restored.variables["params"], sep="/")
    found = {}
    for name, stage in stages_of(restored).items():
        weights = {}
        for layer in range(1, stage.topology.depth + 1):
            dense = params.get(f"{name}/weights{layer}/weights")  # [sources, channels]
            if dense is not None:
                sources = stage.topology.sources_of(layer)
                weights |= {(layer, s): w for s, w in zip(sources, dense, strict=True)}
        for layer in range(stage.topology.depth + 1):
            block = f"{name}/layer{layer}" if layer else f"{name}_opening"
            within = params.get(f"{block}/inner_shortcut/weights")  # [channels]
            if within is not None:
                weights[layer, layer] = within
        if any(layer for layer, _ in weights):
            weights = {link: np.asarray(each) for link, each in weights.items()}
            found[name] = ShortcutWeights(stage, weights)
    return found


def run(restored: Restored, given: argparse.Namespace, output: AnyPath) -> None:
    """Print, write and draw the weights of shortcuts."""
    found = shortcut_weights(restored)
    if not found:
        raise UserError(
            f"{restored.config.model.name} has no shortcuts with learnt weights; DSNet and DS2Net"
            " have, and weights of networks that concatenate are in the analysis 'weights'"
        )
    rows = [
        {
            "stage": name,
            "layer": layer,
            "source": source,
            "mean_absolute_weight": np.abs(weights).mean(dtype=np.float64),
            "mean": weights.mean(dtype=np.float64),
            "std": weights.std(dtype=np.float64),
            "least": weights.min(),
            "largest": weights.max(),
        }
        for name, stage in found.items()
        for (layer, source), weights in stage.weights.items()
    ]
    maps = {name: stage.means() for name, stage in found.items()}
    links = {name: stage.links for name, stage in found.items()}
    largest = max(float(np.nanmax(each)) for each in maps.values())
    figure = draw_heat_maps(maps, links, limits=(0, largest), label=LABEL)
    title = command.headline(restored, given, LABEL)
    shown = [_summary(name, stage) for name, stage in found.items()]
    command.publish(output, title, shown, {"shortcuts": rows}, figure, tight=True)


def _summary(name: str, stage: ShortcutWeights) -> dict[str, str]:
    """Return a row of the printed table: mean weights by the distance of the source."""
    means = stage.means()

    def mean_where(fits: Callable[[int, int], bool]) -> str:
        values = [means[link] for link in stage.weights if fits(*link)]
        return f"{np.mean(values):.3f}" if values else ""

    return {
        "stage": name,
        "shortcuts": str(sum(layer > source for layer, source in stage.weights)),
        "channels": str(len(next(iter(stage.weights.values())))),
        "all": mean_where(lambda layer, source: layer > source),
        "previous output": mean_where(lambda layer, source: layer == source + 1),
        "earlier outputs": mean_where(lambda layer, source: layer > source + 1),
        "stage input": mean_where(lambda layer, source: source == 0 < layer),
        "within layers": mean_where(lambda layer, source: layer == source),
    }
