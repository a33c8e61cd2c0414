"""Gradients at every output of a stage over test images, by the length of the way to them.

SparseNet, arXiv 1801.05895, Section 3.2: what trains a layer is the gradient that reaches it, and
the shortest path is that on which it passes the fewest layers. Printed and drawn are the L2 norms
of d loss / d y_s, the gradient of the cross entropy of an image at the output y_s as a whole, and
the links of the shortest path from the stage's output back to y_s: those that the pattern has, and
those after which a gradient really arrives (`measured_paths`).
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from aggnets_jax import data, tables
from aggnets_jax.analysis.grad_cam import first_pictures
from aggnets_jax.analysis.path_gradients import make_backward, steps_of
from aggnets_jax.analysis.taps import has_shortcuts, output_of, stages_of
from aggnets_jax.connectivity.links import StageLinks
from aggnets_jax.errors import UserError
from aggnets_jax.evaluate import evaluation_batches
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.workdir.restore import Restored


def shortest_paths(stage: StageLinks) -> np.ndarray:
    """Links on the shortest path between any two outputs of a stage.

    As `Topology.shortest_paths`, but of no other layers than those that the stage has: it makes a
    difference where it has several inputs.

    Returns:
      float64 [N + 2, N + 2] by layer and source; infinity where there is no path.
    """
    lengths = np.full([stage.topology.depth + 2] * 2, np.inf)
    np.fill_diagonal(lengths, 0)
    for layer in dict.fromkeys(layer for layer, _ in stage.links):
        sources = list(stage.topology.sources_of(layer))
        lengths[layer, :layer] = 1 + lengths[sources, :layer].min(axis=0)
    return lengths


def measured_paths(restored: Restored, images: jax.Array) -> dict[str, np.ndarray]:
    """After how many links gradients arrive, by stage.

    From each output in turn a gradient in a random direction goes back, its parts told apart by the
    links they have taken (see `path_gradients.py`): the first part that is not 0 at y_s, for any of
    the images, has the length of the shortest path. In stages of shortcuts what is told apart are
    shortcuts, and nothing goes through a layer's F.

    Args:
      restored: with the variables of one network.
      images: float [B, height, width, channels], normalised.

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
        end = output_of(stage)
        lengths = np.full_like(paths[name], np.inf)
        for layer in range(end + 1):
            seeds = np.zeros_like(steps.seeds)
            seeds[layer] = 1
            steps = steps._replace(seeds=seeds)
            norms = backward(restored.variables, images, labels, {**still, name: steps}, 0.0)
            arrived = np.asarray(norms[name]).any(axis=2)  # [N + 2, copies]
            first = np.where(arrived.any(axis=1), arrived.argmax(axis=1), np.inf)
            # The link into the stage's output goes through no layer, which would count it.
            if layer == stage.topology.depth + 1:
                first[:layer] += 1
            lengths[layer] = first
        found[name] = lengths
    return found


def gradient_norms(
    restored: Restored, images: jax.Array, labels: jax.Array
) -> dict[str, np.ndarray]:
    """Norms of the gradients of the loss, by stage.

    Args:
      restored: with the variables of one network.
      images: float [B, height, width, channels], normalised.
      labels: int [B].

    Returns:
      By stage, float32 [N + 2, B], the L2 norm of d loss / d y_s of each image; 0 for layers that
      the stage does not have, such as the output of one whose output is its last layer.
    """
    stages = stages_of(restored)
    backward = make_backward(restored.model, stages, 1)
    steps = {name: steps_of(stage) for name, stage in stages.items()}
    norms = backward(restored.variables, images, labels, steps, 1.0)
    return {name: np.asarray(norms[name][:, 0]) for name in stages}


def first_images(restored: Restored, given: argparse.Namespace) -> tuple[jax.Array, jax.Array]:
    """The first `given.count` images of the test set, normalised, and their labels."""
    if given.count < 1:
        raise UserError(f"--count must be at least 1, not {given.count}")
    batches = evaluation_batches(restored, mesh_lib.make_mesh(), given.data_dir)
    pictures = first_pictures(batches, given.count)
    preprocess = data.make_preprocess(restored.config.data, restored.info)
    images = preprocess({"image": jnp.asarray(pictures.images)}, train=False)
    return images, jnp.asarray(pictures.labels, jnp.int32)


def add_arguments(parser: argparse.ArgumentParser, images: int = 32) -> None:
    """Adds the flags of this analysis; `images` is the default of one of them."""
    parser.add_argument(
        "--count",
        type=int,
        default=images,
        help=f"how many of the test set, the first ones; default {images}",
    )
    parser.add_argument("--data_dir", help="of the data set; default that of the run")


def run(restored: Restored, given: argparse.Namespace, output: Path) -> None:
    """Does what the command line says."""
    images, labels = first_images(restored, given)
    measured = measured_paths(restored, images[:4])
    norms = gradient_norms(restored, images, labels)
    rows = [
        row
        for name, stage in stages_of(restored).items()
        for row in _records(name, stage, measured[name], norms[name])
    ]
    title = f"{given.workdir}, step {restored.step}: |d loss / d y| of {len(images)} images"
    tables.print_table([{name: _cell(value) for name, value in row.items()} for row in rows], title)
    tables.write_csv(output / "gradients.csv", rows)
    draw(rows).savefig(output / "gradients.png")
    print(f"{output / 'gradients.csv'}, {output / 'gradients.png'}")


def _records(
    name: str, stage: StageLinks, measured: np.ndarray, norms: np.ndarray
) -> list[dict[str, Any]]:
    """One for each output of a stage."""
    end = output_of(stage)
    computed = shortest_paths(stage)
    return [
        {
            "stage": name,
            "output": source,
            "shortest_path": computed[end, source],
            "measured_path": measured[end, source],
            "gradient_norm": norms[source].mean(dtype=np.float64),
            "std_of_images": norms[source].std(dtype=np.float64),
        }
        for source in range(end + 1)
    ]


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def draw(rows: list[Mapping[str, Any]]) -> Figure:
    """Draws norms by output, and by path length, a colour for each stage."""
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
    left.set(
        xlabel="output y_s (0 is the stage's input, the last its output)",
        ylabel="|d loss / d y_s|",
        yscale="log",
    )
    right.set(xlabel="links on the shortest path from the stage's output back to y_s")
    right.xaxis.get_major_locator().set_params(integer=True)
    for axes in (left, right):
        axes.grid(alpha=0.25)
    if len(stages) <= 10:
        left.legend(frameon=False, fontsize=7)
    return figure
