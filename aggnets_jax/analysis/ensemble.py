"""Ensemble: the accuracy of several networks together, by the mean of their logits.

The networks are seeds and checkpoints of one run, or of several runs of any families.
"""

import argparse
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from aggnets_jax.analysis import command, members
from aggnets_jax.analysis.outputs import Outputs, split_logits
from aggnets_jax.errors import UserError
from aggnets_jax.evaluate import evaluation_batches
from aggnets_jax.files import AnyPath
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.workdir.restore import Restored


def means_of_first(logits: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the mean of the first n arrays of logits [images, classes], float64, for n from 1."""
    sums = np.cumsum(np.asarray(logits, np.float64), axis=0)
    return [total / (number + 1) for number, total in enumerate(sums)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this analysis."""
    members.add_arguments(parser)
    command.add_data_dir(parser)


def run(restored: Restored, given: argparse.Namespace, output: AnyPath) -> None:
    """Print, write and draw the accuracy of each network, and of the first 2, 3, ... together."""
    batches = evaluation_batches(restored, mesh_lib.make_mesh(), given.data_dir)
    names, logits, labels = [], [], None
    for member in members.find_members(given):
        found = split_logits(member.restored, batches)
        names.append(member.name)
        logits.append(found.values)
        labels = found.labels
    if len(names) < 2:
        raise UserError(
            f"an ensemble needs two networks or more, and there is {names[0]}: name other runs by"
            " --with, or checkpoints by --checkpoints"
        )
    single = [
        members.figures(name, Outputs(values, labels))
        for name, values in zip(names, logits, strict=True)
    ]
    joined = [
        members.figures(f"mean of the first {number}", Outputs(values, labels))
        for number, values in enumerate(means_of_first(logits), 1)
        if number > 1
    ]
    title = f"{len(names)} networks on {len(labels):,} images"
    shown = list(map(members.cells, [*single, joined[-1]]))
    tables = {"ensemble": [*single, *joined]}
    command.publish(output, title, shown, tables, draw(single, joined))


def draw(single: Sequence[dict], joined: Sequence[dict]) -> Figure:
    """Draw the accuracy of each network, and of the first n together over n."""
    figure = Figure(figsize=(5, 3.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    numbers = np.arange(1, len(single) + 1)
    percent = [100 * record["accuracy"] for record in single]
    axes.plot(numbers, percent, "o", color="0.6", label="each network")
    together = [single[0], *joined]
    heights = np.array([100 * record["accuracy"] for record in together])
    ends = 100 * np.array([(record["low"], record["high"]) for record in together])
    spread = np.abs(ends.T - heights)
    axes.errorbar(numbers, heights, spread, marker="o", capsize=3, label="mean of their logits")
    axes.set(xlabel="networks", ylabel="accuracy, %, 95 % interval", xticks=numbers)
    axes.legend(fontsize=8)
    return figure
