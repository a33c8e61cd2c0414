"""Costs of a connection pattern and distances between its layers: Table 1 of the SparseNet paper.

Zhu et al., arXiv 1801.05895, Section 3.2: for N layers, and for layer l,

                          parameters    shortest gradient path   aggregated features
    plain                 O(N)          O(N)                     O(1)
    dense, sum            O(N)          O(1)                     O(l)
    dense, concat         O(N^2)        O(1)                     O(l)
    sparse, sum           O(N)          O(log N)                 O(log l)
    sparse, concat        O(N log N)    O(log N)                 O(log l)

Here the numbers are counted for each stage of a network, and of the same network with the patterns
of the table: parameters of the stage's layers, links into layers, and the number of outputs that
layer N aggregates. The path is the longest of the shortest paths between two outputs: by the
pattern, by a formula (see `bound`), and on real gradients (`output_gradients.measured_paths`). The
last two columns count the pairs of outputs, and the pairs for which pattern and gradients agree.
"""

import argparse
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aggnets_jax import config as config_lib
from aggnets_jax.analysis import command
from aggnets_jax.analysis.output_gradients import measured_paths, shortest_paths
from aggnets_jax.analysis.plots import draw_heat_map, label_axes
from aggnets_jax.analysis.taps import has_shortcuts, inputs_of, output_of, stages_of
from aggnets_jax.connectivity.links import StageLinks, find_links
from aggnets_jax.connectivity.topology import Topology
from aggnets_jax.errors import UserError
from aggnets_jax.files import AnyPath
from aggnets_jax.models import create_model
from aggnets_jax.workdir.restore import Restored

# By pattern: orders of the parameters under concatenation and under sums, of the shortest gradient
# path, and of the aggregated features.
ORDERS = {
    "plain": ("N", "N", "N", "1"),
    "dense": ("N^2", "N", "1", "l"),
    "sparse": ("N log N", "N", "log N", "log l"),
}


def sparse_base(topology: Topology) -> int | None:
    """Return the c of a "sparse" topology; None for another, or one so shallow that it is plain."""
    offsets = sorted({layer - source for layer, source in topology.links})
    return offsets[1] if topology.name == "sparse" and len(offsets) > 1 else None


def number_of_links(topology: Topology) -> int | None:
    """Count links into layers by the formula of the pattern; None without a formula.

    N for "plain", N (N + 1) / 2 for "dense"; for "sparse" the sum over l of floor(log_c l) + 1,
    where eq. 4 leaves out the 1.
    """
    depth, base = topology.depth, sparse_base(topology)
    if topology.name == "dense":
        return depth * (depth + 1) // 2
    if base is not None:
        return sum(len(_digits(layer, base)) for layer in range(1, depth + 1))
    return depth if topology.name in ("plain", "sparse") else None


def bound(topology: Topology, distance: int) -> int | None:
    """Return the longest shortest path between outputs at most `distance` apart, by a formula.

    None without a formula; `distance` for "plain", 1 for "dense". In "sparse" a path over S layers
    writes S as a sum of powers of c. The shortest has as many terms as the sum of S's digits to the
    base c, which is at most (c - 1) (floor(log_c S) + 1), the O((c - 1) log S) of the paper.
    """
    if distance < 1:
        return 0
    base = sparse_base(topology)
    if base is not None:
        return max(sum(_digits(s, base)) for s in range(1, distance + 1))
    return {"plain": distance, "sparse": distance, "dense": 1}.get(topology.name)


def _digits(number: int, base: int) -> list[int]:
    digits = []
    while number:
        number, digit = divmod(number, base)
        digits.append(digit)
    return digits


class Pattern(NamedTuple):
    """A stage under one pattern: its links, and the number of parameters of its layers.

    `measured` is from `measured_paths`; None where nothing was trained.
    """

    stage: StageLinks
    params: int
    measured: np.ndarray | None = None


def patterns(restored: Restored, images: jax.Array) -> dict[str, list[Pattern]]:
    """Return each stage of a network, then the same stage under the patterns of the table.

    Patterns that the network's family does not have are left out, and patterns with the same links
    as the network's own. Paths are measured on the images.
    """
    measured = measured_paths(restored, images)
    found = {
        name: [Pattern(stage, _count(restored.variables["params"], name), measured[name])]
        for name, stage in stages_of(restored).items()
    }
    arguments = config_lib.model_arguments(restored.config)
    arguments.pop("topology_args", None)
    for pattern in ORDERS:
        arguments["topology"] = pattern
        try:
            model = create_model(restored.config.model.name, restored.info.num_classes, **arguments)
        except UserError:
            continue
        stages = find_links(model, restored.info.image_shape)
        shapes = jax.eval_shape(model.init, jax.random.key(0), images[:1])["params"]
        for name, of_stage in found.items():
            own = of_stage[0].stage
            if name in stages and stages[name].links and set(stages[name].links) != set(own.links):
                of_stage.append(Pattern(stages[name], _count(shapes, name)))
    return found


def _count(params: Mapping[str, Any], stage: str) -> int:
    for key in stage.split("/"):
        params = params.get(key, {})
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def longest_by_distance(lengths: np.ndarray) -> list[float]:
    """Return the longest finite path between outputs 1, 2, ... apart; 0 without a path.

    The lengths of paths are [N + 2, N + 2] by layer and source.
    """
    diagonals = (np.diagonal(lengths, -distance) for distance in range(1, len(lengths)))
    return [float(max(each[np.isfinite(each)], default=0)) for each in diagonals]


def describe(name: str, pattern: Pattern, sums: bool) -> dict[str, Any]:
    """Return the row of a stage under a pattern; `sums`: outputs are added, not concatenated."""
    stage, topology = pattern.stage, pattern.stage.topology
    paths = shortest_paths(stage)
    # The formulas are for patterns that begin at one input.
    known = topology.name if inputs_of(stage) == 1 else ""
    by_concat, by_sum, path, features = ORDERS.get(known, ("",) * 4)
    last = [source for layer, source in stage.links if layer == topology.depth]
    row = {
        "stage": name,
        "pattern": topology.name,
        "layers": topology.depth,
        "parameters": pattern.params,
        "parameters_order": by_sum if sums else by_concat,
        "links": sum(layer <= topology.depth for layer, _ in stage.links),
        "links_formula": number_of_links(topology) if known else None,
        "features": len(last),
        "features_order": features,
        "longest_path": max(longest_by_distance(paths)),
        "path_bound": bound(topology, output_of(stage)) if known else None,
        "path_order": path,
        **dict.fromkeys(("measured_path", "pairs", "pairs_that_agree")),
    }
    if pattern.measured is not None:
        pairs = np.isfinite(paths) & (paths > 0)
        row["measured_path"] = max(longest_by_distance(pattern.measured))
        row["pairs"] = int(pairs.sum())
        row["pairs_that_agree"] = int((pairs & (paths == pattern.measured)).sum())
    return row


add_arguments = functools.partial(command.add_count, default=4)


def run(restored: Restored, given: argparse.Namespace, output: AnyPath) -> None:
    """Print, write and draw the costs and paths of patterns."""
    images, _ = command.first_images(restored, given)
    found = patterns(restored, images)
    sums = getattr(restored.model, "aggregation", "concat") in ("sum", "mean")
    rows = [
        describe(name, pattern, sums or has_shortcuts(pattern.stage))
        for name, of_stage in found.items()
        for pattern in of_stage
    ]
    title = command.headline(restored, given, "patterns (SparseNet, Table 1)")
    command.publish(output, title, list(map(_cells, rows)), {"topology": rows}, draw(found))


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    """Return a row of the printed table."""
    order = {name: f"O({value})" if value else "" for name, value in row.items()}
    agree = row["pairs_that_agree"]
    return {
        "stage": row["stage"],
        "pattern": row["pattern"],
        "N": str(row["layers"]),
        "parameters": f"{row['parameters']:,} {order['parameters_order']}",
        "links": f"{row['links']}",
        "by formula": "" if row["links_formula"] is None else str(row["links_formula"]),
        "features": f"{row['features']} {order['features_order']}",
        "longest path": f"{row['longest_path']:g} {order['path_order']}",
        "bound": "" if row["path_bound"] is None else str(row["path_bound"]),
        "measured": "" if agree is None else f"{row['measured_path']:g}",
        "pairs that agree": "" if agree is None else f"{agree} of {row['pairs']}",
    }


def draw(found: Mapping[str, list[Pattern]]) -> Figure:
    """Draw the paths of the deepest stages: by pair, and by distance under each pattern.

    Stages of the same links are drawn once.
    """
    distinct = {frozenset(of[0].stage.links): (name, of) for name, of in reversed(found.items())}
    deepest = sorted(distinct.values(), key=lambda item: -item[1][0].stage.topology.depth)[:4]
    figure = Figure((8, 3.5 * len(deepest)), dpi=120, layout="compressed")
    panels = figure.subplots(len(deepest), 2, squeeze=False)
    for (left, right), (name, of_stage) in zip(panels, deepest, strict=True):
        own = of_stage[0]
        lengths = np.where(np.isfinite(own.measured) & (own.measured > 0), own.measured, np.nan)
        first, topology = inputs_of(own.stage), own.stage.topology
        draw_heat_map(left, lengths[:, :-1], topology, inputs=first, colours="viridis")
        left.set_title(f"{name}: links until a gradient arrives", fontsize=9)
        left.set_ylabel("output", fontsize=8)
        _draw_by_distance(right, of_stage)
    return figure


def _draw_by_distance(axes: Axes, of_stage: Sequence[Pattern]) -> None:
    """Draw the longest shortest path between outputs of a stage by their distance."""
    own = of_stage[0]
    distances = range(1, len(own.measured))
    for pattern in of_stage:
        lengths = longest_by_distance(shortest_paths(pattern.stage))
        axes.plot(distances, lengths, "-", linewidth=1.2, label=pattern.stage.topology.name)
    bounds = [bound(own.stage.topology, distance) for distance in distances]
    if inputs_of(own.stage) == 1 and None not in bounds:
        label = f"bound of {own.stage.topology.name}"
        axes.plot(distances, bounds, ":", linewidth=1.2, label=label)
    style = {"color": "black", "markersize": 3, "label": "measured"}
    axes.plot(distances, longest_by_distance(own.measured), "o", **style)
    label_axes(axes, "layers apart", "links on the longest shortest path")
    axes.yaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=7)
