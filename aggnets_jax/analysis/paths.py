"""Effective path length: the length of the paths on which the gradient passes each stage.

Veit et al., "Residual Networks Behave Like Ensembles of Relatively Shallow Networks", NIPS 2016,
arXiv 1605.06431, Section 5 and Fig. 6, for any connection pattern. The length of a path from the
output of a stage back to its input is the number of layers whose F it passes; a shortcut adds
nothing. For each length:

    paths      number of paths
    mean norm  norm of the gradient of the loss at the stage's input along one path alone: the mean
               over images and over some of the paths, drawn with equal probability
    gradient   their product, the gradient that paths of this length carry; the mean of the lengths
               with this weight is the effective path length
    together   norm of the sum of the gradients of all these paths, in which they may cancel

Only the gradients are restricted to a path; the computation of the trained network is unchanged
(see `path_gradients.py`).
"""

import argparse
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from aggnets_jax.analysis import command
from aggnets_jax.analysis.path_gradients import Backward, Steps, make_backward, steps_of
from aggnets_jax.analysis.plots import label_axes, make_panels
from aggnets_jax.analysis.taps import choose, has_shortcuts, inputs_of, output_of, stages_of
from aggnets_jax.connectivity.links import StageLinks
from aggnets_jax.errors import UserError
from aggnets_jax.files import AnyPath
from aggnets_jax.training.state import Variables
from aggnets_jax.workdir.restore import Restored

_MOST_IMAGES = 64  # in one batch, in which each image has a copy for each length


class Step(NamedTuple):
    """A step of a path, from a layer to an earlier output, its source.

    Its kind is "computed" through the layer's F, "shortcut" past it, or "output" from a stage's
    output that is no layer.
    """

    layer: int
    kind: str
    source: int

    @property
    def length(self) -> int:
        """Number of layers that the step goes through."""
        return int(self.kind == "computed")


def steps_back(stage: StageLinks, layer: int) -> list[Step]:
    """Return the steps from a layer of a stage."""
    sources = [source for reader, source in stage.links if reader == layer]
    if has_shortcuts(stage):
        past = (Step(layer, "shortcut", source) for source in sources)
        return [Step(layer, "computed", layer - 1), *past]
    kind = "computed" if layer <= stage.topology.depth else "output"
    return [Step(layer, kind, source) for source in sources]


Counts = list[Counter[int]]
"""For each output of a stage, the number of paths back to the stage's inputs, by length."""


def count_paths(stage: StageLinks) -> Counts:
    """Count the paths of a stage, exactly."""
    counts: Counts = [Counter([0]) for _ in range(inputs_of(stage))]
    for layer in range(inputs_of(stage), output_of(stage) + 1):
        counts.append(Counter())
        for step in steps_back(stage, layer):
            for length, count in counts[step.source].items():
                counts[layer][length + step.length] += count
    return counts


def path_of(stage: StageLinks, counts: Counts, length: int, number: int) -> list[Step]:
    """Return path `number` (0, 1, ...) of a length from a stage's output to an input."""
    path, layer = [], output_of(stage)
    while layer >= inputs_of(stage):
        for step in steps_back(stage, layer):
            beyond = counts[step.source][length - step.length]
            if number < beyond:
                break
            number -= beyond
        path.append(step)
        layer, length = step.source, length - step.length
    return path


def draw_paths(
    stage: StageLinks, counts: Counts, length: int, count: int, generator: random.Random
) -> list[list[Step]]:
    """Draw paths of a length; return all if there are at most `count`."""
    paths = counts[output_of(stage)][length]
    # There may be more paths than a machine integer can number.
    numbers = {generator.randrange(paths) for _ in range(count)} if paths > count else range(paths)
    return [path_of(stage, counts, length, number) for number in sorted(numbers)]


def along(stage: StageLinks, path: Sequence[Step]) -> tuple[Steps, int]:
    """Return steps that let the gradients of one path through, and the number of counted steps.

    Steps start at the layers of this path only, so that any other path has fewer of them.
    """
    size = stage.topology.depth + 2
    factors = {kind: np.zeros(size, np.float32) for kind in ("computed", "shortcut")}
    taken = [step for step in path if step.kind in factors]
    for step in taken:
        factors[step.kind][step.layer] = 1
    steps = steps_of(stage)._replace(**factors, count_computed=True, count_shortcut=True)
    return steps, len(taken)


class StagePaths(NamedTuple):
    """Paths through a stage and their gradients, by length; see the top of this file."""

    lengths: list[int]  # ascending
    paths: list[int]  # their numbers
    sampled: list[int]  # numbers of paths whose gradients were computed alone
    mean_norms: np.ndarray  # float64
    together: np.ndarray  # float64

    @property
    def gradient(self) -> np.ndarray:
        """The gradient that paths carry, one by one, float64 by length."""
        return np.array(self.paths, np.float64) * self.mean_norms


def mean_length(lengths: Sequence[int], weights: Any) -> float:
    """Return the weighted mean of lengths; NaN if all weights are 0."""
    weights = np.asarray(weights, np.float64)
    return float(weights @ np.asarray(lengths) / weights.sum()) if weights.sum() else math.nan


def stage_paths(
    restored: Restored, images: jax.Array, labels: jax.Array, *, samples: int, pattern: str = "*"
) -> dict[str, StagePaths]:
    """Split the gradients through each stage with a name that matches a shell pattern.

    At most `samples` paths of each length are followed one by one.
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
            of_paths = []
            for path in draw_paths(stage, counts, length, samples, generator):
                steps, count = along(stage, path)
                of_paths.append(norms_of(steps)[path[-1].source, count].mean())
            means.append(np.mean(of_paths))
            sampled.append(len(of_paths))
        lengths, numbers = list(of_length), list(of_length.values())
        found[name] = StagePaths(lengths, numbers, sampled, np.array(means), together[lengths])
    return found


def _in_parts(backward: Backward, copies: int, images: jax.Array, labels: jax.Array) -> Any:
    """Make a function of variables and steps that runs `backward` on the images in equal parts."""
    count = len(images)
    fitting = range(1, max(1, _MOST_IMAGES // copies) + 1)
    size = max(n for n in fitting if count % n == 0)

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
    """Add the flags of this analysis."""
    command.add_count(parser, default=8)
    text = "largest number of paths of each length; default 20"
    parser.add_argument("--samples", type=int, default=20, help=text)
    command.add_stages(parser)


def run(restored: Restored, given: argparse.Namespace, output: AnyPath) -> None:
    """Print, write and draw paths and their gradients by length."""
    if given.samples < 1:
        raise UserError(f"--samples must be at least 1, not {given.samples}")
    images, labels = command.first_images(restored, given)
    found = stage_paths(restored, images, labels, samples=given.samples, pattern=given.stages)
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
    title = command.headline(restored, given, "path lengths, in layers")
    shown = [_summary(name, paths) for name, paths in found.items()]
    command.publish(output, title, shown, {"paths": rows}, draw(found))


def _summary(name: str, paths: StagePaths) -> dict[str, str]:
    return {
        "stage": name,
        "paths": f"{sum(paths.paths):,}",
        "shortest": str(paths.lengths[0]),
        "longest": str(paths.lengths[-1]),
        "mean": f"{mean_length(paths.lengths, paths.paths):.2f}",
        "effective": f"{mean_length(paths.lengths, paths.gradient):.2f}",
        "effective, together": f"{mean_length(paths.lengths, paths.together):.2f}",
    }


def draw(found: Mapping[str, StagePaths]) -> Figure:
    """Draw for each stage the shares of lengths: in paths, and in their gradients."""
    figure, panels = make_panels(len(found), 3.4, 2.9)
    for (axes,), (name, paths) in zip(panels, found.items(), strict=True):
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
        label_axes(axes, "layers on the path", "share")
    panels[0, 0].legend(frameon=False, fontsize=7)
    return figure
