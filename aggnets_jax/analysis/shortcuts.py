"""Learnt weights of dense shortcuts: how much of each earlier output DSNet adds to a block's.

Zhang et al., arXiv 2010.12496:

    eq. 12       y_l = ReLU(F_l(y_{l-1}) + sum_i W[l, i] N(y_i))     W[l, i] weighs channels
    Section 3.3  u = BN(conv3x3(z)) + w N(z)                         within F_l, in DS2Net

The numbers are means of |W[l, i]| over the channels. They compare with each other, between layers
and stages, too, because N makes all that is weighed of one size; and W is 1 at first. The weights w
within a layer stand on the diagonal: a layer never reads itself.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from aggnets_jax import tables
from aggnets_jax.analysis.plots import save_heat_maps
from aggnets_jax.analysis.taps import stages_of
from aggnets_jax.connectivity.topology import Link, Topology
from aggnets_jax.errors import UserError
from aggnets_jax.workdir.restore import Restored

LABEL = "mean |W| over channels"


class ShortcutWeights(NamedTuple):
    """The learnt weights of a stage's shortcuts.

    Attributes:
      topology: of the stage.
      weights: by `(layer, source)`, float [channels]; those within a layer are by `(layer, layer)`,
        that of the block that opens the stage being layer 0.
    """

    topology: Topology
    weights: dict[Link, np.ndarray]

    def means(self) -> np.ndarray:
        """float64 [N + 2, N + 1] by layer and source, the mean absolute weight; else NaN."""
        matrix = np.full([self.topology.depth + 2, self.topology.depth + 1], np.nan)
        for link, weights in self.weights.items():
            matrix[link] = np.abs(weights).mean(dtype=np.float64)
        return matrix


def shortcut_weights(restored: Restored) -> dict[str, ShortcutWeights]:
    """The weights of all stages whose layers have some.

    Args:
      restored: with the variables of one network.
    """
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
            found[name] = ShortcutWeights(
                stage.topology, {link: np.asarray(w) for link, w in weights.items()}
            )
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds no flags: this analysis has none of its own."""


def run(restored: Restored, given: argparse.Namespace, output: Path) -> None:
    """Does what the command line says."""
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
    title = f"{given.workdir}, step {restored.step}: {LABEL}"
    tables.print_table([_summary(name, stage) for name, stage in found.items()], title)
    tables.write_csv(output / "shortcuts.csv", rows)
    maps = {name: stage.means() for name, stage in found.items()}
    save_heat_maps(
        output / "shortcuts.png",
        maps,
        {name: found[name].topology for name in maps},
        limits=(0, max(float(np.nanmax(each)) for each in maps.values())),
        label=LABEL,
    )
    print(f"{output / 'shortcuts.csv'}, {output / 'shortcuts.png'}")


def _summary(name: str, stage: ShortcutWeights) -> dict[str, str]:
    """A row of the table: how much comes from where."""
    means = stage.means()

    def mean_where(fits: Any) -> str:
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
