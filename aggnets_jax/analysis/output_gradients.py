"""Gradients at every output of a stage over test images, beside the shortest path to it.

SparseNet, arXiv 1801.05895, Section 3.2: a layer is trained by the gradient that reaches it, and on
the shortest path this gradient passes the fewest layers. The analysis prints and draws two numbers
for each output y_s. One is the L2 norm of d loss / d y_s, the gradient of the cross entropy of an
image at the whole output. The other is the number of links on the shortest path from the stage's
output back to y_s: by the pattern, and by measured gradients (`measured_paths`).
"""

import argparse
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from scipy.sparse import csgraph

from aggnets_jax.analysis import command
from aggnets_jax.analysis.path_gradients import make_backward, steps_of
from aggnets_jax.analysis.taps import has_shortcuts, output_of, stages_of
from aggnets_jax.connectivity.links import StageLinks
from aggnets_jax.files import AnyPath
from aggnets_jax.workdir.restore import Restored


def shortest_paths(stage: StageLinks) -> np.ndarray:
    """Count the links on the shortest path between any two outputs of a stage.

    `Topology.shortest_paths` has layers that the stage does not have if it has several inputs.
    Returns float64 [N + 2, N + 2] by layer and source; infinity where there is no path.
    """
    links = np.zeros([stage.topology.depth + 2] * 2)
    links[tuple(np.transpose(stage.links))] = 1
    return csgraph.shortest_path(links, unweighted=True)


def measured_paths(restored: Restored, images: jax.Array) -> dict[str, np.ndarray]:
    """Count the links after which gradients arrive, by stage.

    From each output in turn a gradient in a random direction goes back, its parts split by the
    number of links (see `path_gradients.py`): the first part that is not 0 at y_s, for any of the
    images, has the length of the shortest path. In stages of shortcuts the links are shortcuts,
    and nothing goes through a layer's F.

    Returns:
      As `shortest_paths`; infinity, too, for parts longer than any shortest path of the network.
    """
    stages = stages_of(restored)
    paths = {name: shortest_paths(stage) for name, stage in stages.items()}
    longest = max(int(lengths[np.isfinite(lengths)].max()) for lengths in paths.values())
    backward = make_backward(restored.model, stages, longest + 1)
    still = {name: steps_of(stage) for name, stage in stages.items()}
    labels = jnp.zeros(len(images), jnp.int32)
    found = {}
    for name, stage in stages.items():
        past = has_shortcuts(stage)
        steps = still[name]._replace(count_computed=not past, count_shortcut=past)
        if past:
            steps = steps._replace(computed=np.zeros_like(steps.computed))
        lengths = np.full_like(paths[name], np.inf)
        for layer in range(output_of(stage) + 1):
            steps = steps._replace(seeds=np.eye(len(steps.seeds), dtype=np.float32)[layer])
            norms = backward(restored.variables, images, labels, {**still, name: steps}, 0.0)
            arrived = np.asarray(norms[name]).any(axis=2)  # [N + 2, copies]
            lengths[layer] = np.where(arrived.any(axis=1), arrived.argmax(axis=1), np.inf)
            # The link into the stage's output goes through no layer, which would count it.
            if layer == stage.topology.depth + 1:
                lengths[layer, :layer] += 1
        found[name] = lengths
    return found


def gradient_norms(
    restored: Restored, images: jax.Array, labels: jax.Array
) -> dict[str, np.ndarray]:
    """Compute the norms of the gradients of the loss.

    Returns:
      By stage, float32 [N + 2, B], the L2 norm of d loss / d y_s of each image; 0 for layers that
      the stage does not have, such as N + 1 if its output is its last layer.
    """
    stages = stages_of(restored)
    backward = make_backward(restored.model, stages, 1)
    steps = {name: steps_of(stage) for name, stage in stages.items()}
    norms = backward(restored.variables, images, labels, steps, 1.0)
    return {name: np.asarray(norms[name][:, 0]) for name in stages}


add_arguments = functools.partial(command.add_count, default=32)


def run(restored: Restored, given: argparse.Namespace, output: AnyPath) -> None:
    """Print, write and draw the norms of the gradients at each output."""
    images, labels = command.first_images(restored, given)
    measured = measured_paths(restored, images[:4])
    norms = gradient_norms(restored, images, labels)
    rows = [
        {
            "stage": name,
            "output": source,
            "shortest_path": shortest_paths(stage)[output_of(stage), source],
            "measured_path": measured[name][output_of(stage), source],
            "gradient_norm": norms[name][source].mean(dtype=np.float64),
            "std_of_images": norms[name][source].std(dtype=np.float64),
        }
        for name, stage in stages_of(restored).items()
        for source in range(output_of(stage) + 1)
    ]
    title = command.headline(restored, given, f"|d loss / d y| of {len(images)} images")
    shown = command.to_texts(rows, ".4g")
    command.publish(output, title, shown, {"gradients": rows}, draw(rows))


def draw(rows: list[Mapping[str, Any]]) -> Figure:
    """Draw norms by output, and by path length, a colour for each stage."""
    figure = Figure((11, 3.8), dpi=120, layout="compressed")
    left, right = figure.subplots(1, 2, sharey=True)
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    for number, stage in enumerate(stages):
        own = [row for row in rows if row["stage"] == stage]
        norms = [row["gradient_norm"] for row in own]
        style = {"color": f"C{number % 10}", "label": stage, "markersize": 4}
        left.plot([row["output"] for row in own], norms, "o-", linewidth=1, **style)
        # Stages beside each other, not over each other.
        aside = 0.4 * (number / max(len(stages) - 1, 1) - 0.5)
        right.plot([row["shortest_path"] + aside for row in own], norms, "o", alpha=0.7, **style)
    left.set(xlabel="output y_s (0 is the stage's input, the last its output)")
    left.set(ylabel="|d loss / d y_s|", yscale="log")
    right.set(xlabel="links on the shortest path from the stage's output back to y_s")
    right.xaxis.get_major_locator().set_params(integer=True)
    for axes in (left, right):
        axes.grid(alpha=0.25)
    if len(stages) <= 10:
        left.legend(frameon=False, fontsize=7)
    return figure
