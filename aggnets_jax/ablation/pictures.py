"""Pictures of the effect of cut links: on the pattern of links, by distance, and by number."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import FuncNorm, LinearSegmentedColormap
from matplotlib.figure import Figure

from aggnets_jax.ablation.sets import EVERYWHERE, Stages
from aggnets_jax.ablation.sweep_tables import Row
from aggnets_jax.ablation.tally import Measurement
from aggnets_jax.connectivity.drawing import ACCENT, INK, LONG, SHORT
from aggnets_jax.files import AnyPath, write_figure

# No change is grey, so that it differs from no link, which is white.
_CHANGES = LinearSegmentedColormap.from_list("changes", [LONG, "#e4e7e9", ACCENT])
_COLUMNS = 3  # of panels
_MOST_NUMBERED = 15  # sources of a panel whose cells have room for numbers


def save_link_map(
    stages: Stages, rows: Sequence[Row], file: AnyPath, value: str, label: str, bad: int
) -> None:
    """Draw the change that cutting each link makes, a panel for each stage.

    As in the heat maps of analyses, columns are layers, the last one the stage's output if it reads
    links, and rows the outputs that they read; cells without a link are blank. Colours grow with
    the square root of a change, so that small ones are seen beside large ones; a change that is not
    finite has the colour of the worst.

    Args:
      stages: of the network.
      rows: of the single links.
      file: the picture; its ending says the format.
      value: field of the measurement; "delta" is drawn in percentage points.
      label: of the colours.
      bad: the sign of a change for the worse, -1 or 1.
    """
    factor = 100 if value == "delta" else 1
    changes = {links[0]: factor * getattr(m, value) for (_, links), m in rows}
    known = [abs(change) for change in changes.values() if math.isfinite(change)]
    most = max(known, default=0) or 1.0
    shown = {name: stage for name, stage in stages.items() if stage.links}
    across = min(_COLUMNS, len(shown))
    down = -(-len(shown) // across)
    cells = max(stage.topology.depth for stage in shown.values()) + 1
    side = max(2.2, min(4.6, 0.42 * cells + 0.8))
    figure = Figure(figsize=(side * across + 1.2, (side + 0.5) * down), dpi=120)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(down, across, squeeze=False)
    root = (lambda x: np.sign(x) * np.sqrt(np.abs(x)), lambda x: np.sign(x) * np.square(x))
    norm = FuncNorm(root, vmin=-most, vmax=most)
    colours = _CHANGES if bad < 0 else _CHANGES.reversed()
    for axes in panels.flat[len(shown) :]:
        axes.axis("off")
    for axes, (name, stage) in zip(panels.flat, shown.items(), strict=False):
        columns = max(layer for layer, _ in stage.links)
        grid = np.full((columns, columns), np.nan)
        for layer, source in stage.links:
            change = changes[name, (layer, source)]
            grid[source, layer - 1] = change if math.isfinite(change) else bad * most
        image = axes.imshow(grid, cmap=colours, norm=norm, interpolation="none")
        _number_cells(axes, grid, most)
        _label_outputs(axes, stage.topology.depth, columns, name)
    bar = figure.colorbar(image, ax=panels, label=label, fraction=0.05)
    bar.set_ticks(_ticks(most))
    write_figure(file, figure)


def _ticks(most: float) -> list[float]:
    """Return round numbers on both sides of 0, up to the largest change."""
    exponent = math.floor(math.log10(most))
    steps = [m * 10.0**e for e in range(exponent - 1, exponent + 1) for m in (1, 3)]
    ends = [step for step in steps if step <= most]
    return [-step for step in reversed(ends)] + [0.0] + ends


def _number_cells(axes: Axes, grid: np.ndarray, most: float) -> None:
    if len(grid) > _MOST_NUMBERED:
        return
    for (row, column), change in np.ndenumerate(grid):
        if math.isfinite(change):
            digits = 0 if abs(change) >= 9.95 else 1 if most >= 5 else 2
            ink = "white" if abs(change) > 0.45 * most else INK
            text = f"{round(change, digits) + 0.0:.{digits}f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=ink)


def _label_outputs(axes: Axes, depth: int, columns: int, name: str) -> None:
    every = max(1, columns // 12)
    places = range(0, columns, every)
    axes.set_yticks(places, [str(source) if source else "in" for source in places])
    places = [*range(0, depth, every), *range(depth, columns)]
    axes.set_xticks(places, [str(place + 1) if place < depth else "out" for place in places])
    axes.tick_params(length=0)
    axes.set(xlabel="layer", ylabel="reads")
    axes.set_title(name, fontsize=10, color=INK)
    axes.spines[:].set_visible(False)


def save_distances(rows: Sequence[Row], file: AnyPath) -> None:
    """Draw the change of accuracy against the distance of the links that are cut together.

    Bars are 95 % confidence intervals. The axis says how many links of all stages have a distance.
    """
    by_stage: dict[str, list[Row]] = {}
    for row in rows:
        by_stage.setdefault(row[0].key["stage"], []).append(row)
    figure = Figure(figsize=(7.5, 4), dpi=120)
    axes = figure.subplots()
    colours = LinearSegmentedColormap.from_list("stages", [SHORT, ACCENT])
    for number, (stage, of_stage) in enumerate(by_stage.items()):
        main = number == 0
        x = np.array([cut.key["distance"] for cut, _ in of_stage])
        y, low, high = (
            np.array([100 * getattr(m, name) for _, m in of_stage])
            for name in ("delta", "ci_low", "ci_high")
        )
        axes.errorbar(
            # Side by side, so that intervals do not hide each other.
            x * (1 + 0.012 * number),
            y,
            [np.maximum(0, y - low), np.maximum(0, high - y)],
            color=LONG if main else colours((number - 1) / max(1, len(by_stage) - 2)),
            linewidth=2 if main else 1,
            marker="o",
            markersize=5 if main else 3,
            capsize=2,
            label="all stages" if stage == EVERYWHERE else stage,
            zorder=3 if main else 2,
        )
    counts = {cut.key["distance"]: cut.key["links"] for cut, _ in next(iter(by_stage.values()))}
    distances = sorted(counts)
    axes.set_xscale("log", base=2)
    if len(distances) <= 16:
        names = [f"{d}\n{counts[d]} links" if len(distances) <= 8 else str(d) for d in distances]
        axes.set_xticks(distances, names)
        axes.minorticks_off()
    axes.set(xlabel="distance of the links that are cut", ylabel="change of accuracy, points")
    _finish(figure, axes, file)


def save_random_sets(
    rows: Sequence[Row], baseline: Measurement, chance: float, file: AnyPath
) -> None:
    """Draw the accuracy against the number of links cut at random.

    Lines show the `baseline`, with all links, and `chance`, the accuracy of guessing.
    """
    by_size: dict[int, list[float]] = {}
    for cut, m in rows:
        by_size.setdefault(cut.key["links"], []).append(100 * m.accuracy)
    sizes = sorted(by_size)
    figure = Figure(figsize=(7.5, 4), dpi=120)
    axes = figure.subplots()
    low, mean, high = ([f(by_size[size]) for size in sizes] for f in (min, np.mean, max))
    axes.fill_between(sizes, low, high, color=SHORT, alpha=0.35, linewidth=0, label="least to most")
    for size in sizes:
        axes.plot([size] * len(by_size[size]), by_size[size], ".", color=ACCENT, markersize=4)
    axes.plot(sizes, mean, color=LONG, marker="o", label="mean of the draws")
    axes.axhline(100 * baseline.accuracy, color=INK, linestyle="--", linewidth=1, label="all links")
    axes.axhline(100 * chance, color=INK, linestyle=":", linewidth=1, label="guessing")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, map(str, sizes))
    axes.minorticks_off()
    axes.set(xlabel="links cut at random", ylabel="accuracy, %", ylim=(0, 102))
    _finish(figure, axes, file)


def _finish(figure: Figure, axes: Axes, file: AnyPath) -> None:
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    write_figure(file, figure)


def save_pictures(
    folder: AnyPath,
    stages: Stages,
    kinds: Mapping[str, Sequence[Row]],
    baseline: Measurement,
    chance: float,
) -> list[AnyPath]:
    """Draw the pictures for the kinds of sets that there are; return the files."""
    files = []
    if "links" in kinds:
        for name, value, label, bad in (
            ("links.png", "delta", "change of accuracy, percentage points", -1),
            ("links_loss.png", "loss_delta", "change of the mean cross entropy", 1),
        ):
            files.append(folder / name)
            save_link_map(stages, kinds["links"], files[-1], value, label, bad)
    if "distance" in kinds:
        files.append(folder / "distances.png")
        save_distances(kinds["distance"], files[-1])
    if "random" in kinds:
        files.append(folder / "random.png")
        save_random_sets(kinds["random"], baseline, chance, files[-1])
    return files
