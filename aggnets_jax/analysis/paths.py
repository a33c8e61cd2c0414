"""Effective path length: by how long a way the gradient comes through each stage.

Veit et al., "Residual Networks Behave Like Ensembles of Relatively Shallow Networks", NIPS 2016,
arXiv 1605.06431, Section 5 and Fig. 6, for any connection pattern. The length of a path from the
output of a stage back to its input is the number of layers whose F it goes through, so that a
shortcut adds nothing. For each length:

    paths      how many there are, counted
    mean norm  of the gradient of the loss at the stage's input along one path alone, over some of
               the paths, drawn without preference, and over images
    gradient   their product, the gradient that paths of this length carry; the mean length weighted
               with it is the effective path length
    together   the norm of the gradient that all of them carry as a sum, in which they may cancel

All are of the trained network: along a path gradients go on, at its side they don't, and what the
network computes stays as it is (see `path_gradients.py`).
"""

import argparse
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from aggnets_jax import tables
from aggnets_jax.analysis import gradients
from aggnets_jax.analysis.path_gradients import Backward, Steps, make_backward, steps_of
from aggnets_jax.analysis.taps import choose, has_shortcuts, inputs_of, output_of, stages_of
from aggnets_jax.connectivity.links import StageLinks
from aggnets_jax.errors import UserError
from aggnets_jax.training.state import Variables
from aggnets_jax.workdir.restore import Restored

_MOST_IMAGES = 64  # that run at once, each as often as its paths have lengths


class Step(NamedTuple):
    """A step of a path, from a layer to an output before it.

    Attributes:
      layer: where it starts.
      kind: "computed" through the layer's F, "shortcut" past it; "output" from a stage's output
        that is no layer.
      source: where it ends.
    """

    layer: int
    kind: str
    source: int

    @property
    def length(self) -> int:
        """Layers that it goes through."""
        return int(self.kind == "computed")


def steps_back(stage: StageLinks, layer: int) -> list[Step]:
    """The steps from a layer of a stage."""
    sources = [source for reader, source in stage.links if reader == layer]
    if has_shortcuts(stage):
        return [
            Step(layer, "computed", layer - 1),
            *(Step(layer, "shortcut", source) for source in sources),
        ]
    kind = "computed" if layer <= stage.topology.depth else "output"
    return [Step(layer, kind, source) for source in sources]


Counts = list[dict[int, int]]
"""For each output of a stage, the paths from it back to the stage's inputs, by length."""


def count_paths(stage: StageLinks) -> Counts:
    """Counts the paths of a stage, exactly."""
    counts: Counts = [{0: 1} for _ in range(inputs_of(stage))]
    for layer in range(inputs_of(stage), output_of(stage) + 1):
        counts.append({})
        for step in steps_back(stage, layer):
            for length, count in counts[step.source].items():
                longer = length + step.length
                counts[layer][longer] = counts[layer].get(longer, 0) + count
    return counts


def path_of(stage: StageLinks, counts: Counts, length: int, number: int) -> list[Step]:
    """One of the paths through a stage.

    Args:
      stage: the stage.
      counts: from `count_paths`.
      length: of the path.
      number: of the path among those of this length, from 0.

    Returns:
      Its steps, from the stage's output to an input.
    """
    path, layer = [], output_of(stage)
    while layer >= inputs_of(stage):
        for step in steps_back(stage, layer):
            beyond = counts[step.source].get(length - step.length, 0)
            if number < beyond:
                break
            number -= beyond
        path.append(step)
        layer, length = step.source, length - step.length
    return path


def draw_paths(
    stage: StageLinks, counts: Counts, length: int, count: int, generator: random.Random
) -> list[list[Step]]:
    """Some of the paths of a length, all of them if there are no more than `count`."""
    paths = counts[output_of(stage)][length]
    # Of more paths than a machine integer can number, too.
    numbers = {generator.randrange(paths) for _ in range(count)} if paths > count else range(paths)
    return [path_of(stage, counts, length, number) for number in sorted(numbers)]


def along(stage: StageLinks, path: Sequence[Step]) -> tuple[Steps, int]:
    """What lets the gradients of one path through, and the number of steps that are then counted.

    Steps start at the layers of the path only, and those of another path would be fewer.
    """
    closed = np.zeros(stage.topology.depth + 2, np.float32)
    factors = {"computed": closed, "shortcut": closed.copy()}
    taken = [step for step in path if step.kind in factors]
    for step in taken:
        factors[step.kind][step.layer] = 1
    steps = steps_of(stage)._replace(**factors, count_computed=True, count_shortcut=True)
    return steps, len(taken)


class StagePaths(NamedTuple):
    """What comes through a stage, by length.

    Attributes:
      lengths: of paths that there are, ascending.
      paths: their numbers.
      sampled: of how many of them the mean norm is.
      mean_norms: float64, see the top of this file, as the next.
      together: float64.
    """

    lengths: list[int]
    paths: list[int]
    sampled: list[int]
    mean_norms: np.ndarray
    together: np.ndarray

    @property
    def gradient(self) -> np.ndarray:
        """float64 by length, the gradient that paths carry, one by one."""
        return np.array(self.paths, np.float64) * self.mean_norms


def mean_length(lengths: Sequence[int], weights: Any) -> float:
    """The mean of lengths with some weights; NaN if these are 0."""
    weights = np.asarray(weights, np.float64)
    return float(weights @ np.asarray(lengths) / weights.sum()) if weights.sum() else math.nan


def stage_paths(
    restored: Restored,
    images: jax.Array,
    labels: jax.Array,
    *,
    samples: int,
    pattern: str = "*",
) -> dict[str, StagePaths]:
    """Takes the gradients through stages apart.

    Args:
      restored: with the variables of one network.
      images: float [B, height, width, channels], normalised.
      labels: int [B].
      samples: paths of each length whose gradients are computed alone, at most.
      pattern: shell pattern of the stages.

    Returns:
      By stage.
    """
    stages = choose(stages_of(restored), pattern)
    copies = 1 + max(stage.topology.depth for stage in stages.values())
    backward = _in_parts(make_backward(restored.model, stages, copies), copies, images, labels)
    still = {name: steps_of(stage) for name, stage in stages.items()}
    generator = random.Random(0)
    found = {}
    for name, stage in stages.items():
        inputs, counts = inputs_of(stage), count_paths(stage)
        of_length = dict(sorted(counts[output_of(stage)].items()))

        def norms_of(steps: Steps, name: str = name) -> np.ndarray:
            return backward(restored.variables, {**still, name: steps})[name]

        norms = norms_of(still[name]._replace(count_computed=True))[:inputs]
        together = np.sqrt((norms**2).sum(axis=0)).mean(axis=-1)  # [copies]
        means, sampled = [], []
        for length in of_length:
            paths = draw_paths(stage, counts, length, samples, generator)
            norms = []
            for path in paths:
                steps, count = along(stage, path)
                norms.append(norms_of(steps)[path[-1].source, count].mean())
            means.append(np.mean(norms))
            sampled.append(len(paths))
        lengths = list(of_length)
        numbers = list(of_length.values())
        found[name] = StagePaths(lengths, numbers, sampled, np.array(means), together[lengths])
    return found


def _in_parts(backward: Backward, copies: int, images: jax.Array, labels: jax.Array) -> Any:
    """The same of the loss of some images, of as many at once as there is room for."""
    count = len(images)
    size = max(
        n for n in range(1, count + 1) if count % n == 0 and (n == 1 or n * copies <= _MOST_IMAGES)
    )

    def of_all(variables: Variables, steps: Mapping[str, Steps]) -> dict[str, np.ndarray]:
        parts = [
            backward(variables, images[at : at + size], labels[at : at + size], steps, 1.0)
            for at in range(0, count, size)
        ]
        return {
            name: np.concatenate([np.asarray(part[name], np.float64) for part in parts], axis=-1)
            for name in parts[0]
        }

    return of_all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this analysis."""
    gradients.add_arguments(parser, images=8)
    parser.add_argument(
        "--samples", type=int, default=20, help="paths of each length, at most; default 20"
    )
    parser.add_argument(
        "--stages", default="*", help="shell pattern of the stages to look at; default '*', all"
    )


def run(restored: Restored, given: argparse.Namespace, output: Path) -> None:
    """Does what the command line says."""
    if given.samples < 1:
        raise UserError(f"--samples must be at least 1, not {given.samples}")
    images, labels = gradients.first_images(restored, given)
    found = stage_paths(restored, images, labels, samples=given.samples, pattern=given.stages)
    title = f"{given.workdir}, step {restored.step}: path lengths, in layers"
    tables.print_table([_summary(name, paths) for name, paths in found.items()], title)
    rows = [
        {
            "stage": name,
            "length": length,
            "paths": paths.paths[number],
            "sampled": paths.sampled[number],
            "mean_norm": paths.mean_norms[number],
            "gradient": paths.gradient[number],
            "together": paths.together[number],
        }
        for name, paths in found.items()
        for number, length in enumerate(paths.lengths)
    ]
    tables.write_csv(output / "paths.csv", rows)
    draw(found).savefig(output / "paths.png")
    print(f"{output / 'paths.csv'}, {output / 'paths.png'}")


def _summary(name: str, paths: StagePaths) -> dict[str, str]:
    numbers = np.array(paths.paths, np.float64)
    return {
        "stage": name,
        "paths": f"{sum(paths.paths):,}",
        "shortest": str(paths.lengths[0]),
        "longest": str(paths.lengths[-1]),
        "mean": f"{mean_length(paths.lengths, numbers):.2f}",
        "effective": f"{mean_length(paths.lengths, paths.gradient):.2f}",
        "effective, together": f"{mean_length(paths.lengths, paths.together):.2f}",
    }


def draw(found: Mapping[str, StagePaths]) -> Figure:
    """Draws for each stage the shares of lengths: in paths, and in their gradients."""
    columns = min(4, len(found))
    rows = math.ceil(len(found) / columns)
    figure = Figure((3.4 * columns, 2.9 * rows), dpi=120, layout="compressed")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat[len(found) :]:
        axes.axis("off")
    for axes, (name, paths) in zip(panels.flat, found.items(), strict=False):
        curves = {
            "paths": np.array(paths.paths, np.float64),
            "gradient of paths": paths.gradient,
            "gradient, together": paths.together,
        }
        shares = {label: each / max(each.sum(), 1e-30) for label, each in curves.items()}
        axes.bar(paths.lengths, shares.pop("paths"), color="#c9d6dc", label="paths")
        for (label, share), style in zip(shares.items(), ("o-", "s--"), strict=True):
            axes.plot(paths.lengths, share, style, markersize=3.5, linewidth=1.2, label=label)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("layers on the path", fontsize=8)
        axes.set_ylabel("share", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[0, 0].legend(frameon=False, fontsize=7)
    return figure
