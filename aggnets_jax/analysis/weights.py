"""Weights of links: how heavily each layer uses each output that it reads.

For every layer of a stage that concatenates: the mean absolute weight of the part of its first
convolution that convolves each source's feature maps, divided by the largest of the layer.

    DenseNet, arXiv 1608.06993, Section 5 and Fig. 5     by layer and source of a dense block
    SparseNet, arXiv 1801.05895, Section 4.4 and Fig. 3  the same, "rescaled between 0 and 1 for
                                                         each layer"
    SeqConv, arXiv 1811.10798, Section 4.5 and Fig. 5    by group and group within a layer, in the
                                                         exploded view: the input of a layer is not
                                                         one source but as many as it has slices

Rescaled means divided by the largest, so that 0 is a weight of 0. Were the least taken for 0, each
layer of several sources would have a blue square, however evenly it uses them, where Fig. 5 shows
"hardly any".
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from aggnets_jax import tables
from aggnets_jax.analysis.plots import save_heat_maps
from aggnets_jax.analysis.readers import Reader, find_readers, weight_by_channel
from aggnets_jax.analysis.taps import choose, inputs_of, stages_of
from aggnets_jax.connectivity.links import StageLinks
from aggnets_jax.connectivity.topology import Link
from aggnets_jax.errors import UserError
from aggnets_jax.workdir.restore import Restored

LABEL = "mean |w| / largest of the layer"


class StageWeights(NamedTuple):
    """The weights of a stage's links.

    Attributes:
      links: of the stage.
      readers: of these links, see `find_readers`.
      means: float64 [N + 2, N + 1], the mean absolute weight of each; NaN where there is no link,
        or none with a reader.
    """

    links: StageLinks
    readers: Mapping[Link, Reader]
    means: np.ndarray


def link_weights(restored: Restored) -> dict[str, StageWeights]:
    """The mean absolute weights of the links of each stage that concatenates several outputs.

    Args:
      restored: with the variables of one network.
    """
    stages = stages_of(restored)
    readers = find_readers(restored.model, restored.variables, stages, restored.info.image_shape)
    found = {}
    for name, stage in stages.items():
        layers = [layer for layer, _ in readers[name]]
        if len(layers) == len(set(layers)):
            continue  # no layer reads two
        means = np.full([stage.topology.depth + 2, stage.topology.depth + 1], np.nan)
        for link, reader in readers[name].items():
            params = restored.variables["params"]
            for key in reader.path:
                params = params[key]
            weights = weight_by_channel(params["kernel"], reader.groups)
            means[link] = weights[reader.channels].mean()
        found[name] = StageWeights(stage, readers[name], means)
    return found


def normalised(means: np.ndarray) -> np.ndarray:
    """Each layer's numbers divided by their largest.

    Args:
      means: float [N + 2, N + 1] by layer and source, at least 0 or NaN.

    Returns:
      The same shape, in 0..1 or NaN; of a layer without weights, 0.
    """
    largest = np.max(np.nan_to_num(means), axis=1, keepdims=True)
    return means / np.where(largest > 0, largest, 1)


def heat_maps(restored: Restored) -> dict[str, np.ndarray]:
    """What the papers draw, by stage.

    Args:
      restored: with the variables of one network.

    Returns:
      By stage, float64 [N + 2, N + 1] in 0..1: entry [layer, source] is the mean absolute weight of
      the link, divided by the largest of its layer (N + 1 is the stage's output); NaN where there
      is no link. Without stages that add what they read, none of whose links has weights.
    """
    return {name: normalised(stage.means) for name, stage in link_weights(restored).items()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this analysis."""
    parser.add_argument(
        "--stages", default="*", help="shell pattern of the stages to draw; default '*', all"
    )


def run(restored: Restored, given: argparse.Namespace, output: Path) -> None:
    """Does what the command line says."""
    found = link_weights(restored)
    if not found:
        raise UserError(
            f"{restored.config.model.name} concatenates nowhere, so that its links have no weights"
            " of their own; those of DSNet's shortcuts are in the analysis 'shortcuts'"
        )
    found = choose(found, given.stages)
    title = f"{given.workdir}, step {restored.step}: {LABEL}"
    tables.print_table([_summary(name, stage) for name, stage in found.items()], title)
    rows = [record for name, stage in found.items() for record in _records(name, stage)]
    tables.write_csv(output / "weights.csv", rows)
    save_heat_maps(
        output / "weights.png",
        {name: normalised(stage.means) for name, stage in found.items()},
        {name: stage.links.topology for name, stage in found.items()},
        inputs={name: inputs_of(stage.links) for name, stage in found.items()},
        limits=(0, 1),
        label=LABEL,
    )
    print(f"{output / 'weights.csv'}, {output / 'weights.png'}")


def _records(name: str, stage: StageWeights) -> list[dict[str, Any]]:
    shares = normalised(stage.means)
    return [
        {
            "stage": name,
            "layer": layer,
            "source": source,
            "mean_absolute_weight": stage.means[layer, source],
            "normalised": shares[layer, source],
            "channels": int(reader.channels.sum()),
            "reader": "/".join(reader.path),
        }
        for (layer, source), reader in stage.readers.items()
    ]


def _summary(name: str, stage: StageWeights) -> dict[str, str]:
    """A row of the table: whether all is used (Fig. 3), and less so what is farther away."""
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
