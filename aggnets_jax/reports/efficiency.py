"""Error by parameters and by multiply-adds, from the tables of runs in a folder of results.

Parameter efficiency as the SparseNet paper draws it (arXiv 1801.05895, Figure 2): a point for each
network, a line for each family and pattern.
"""

import argparse
import itertools
import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aggnets_jax import config as config_lib
from aggnets_jax import tables
from aggnets_jax.errors import UserError, one_line
from aggnets_jax.files import write_figure
from aggnets_jax.models.registry import find_family
from aggnets_jax.reports.experiments import list_experiments, read_results, size
from aggnets_jax.statistics import mean_and_interval

_COSTS = {"params": "parameters", "macs": "multiply-adds for one image"}
_MARKERS = "osD^vPX"


class Point(NamedTuple):
    """A network's error, measured or printed.

    Attributes:
      data: name of the data set, and its split if that is not "train".
      line: family and pattern of the network.
      network: its name.
      config: file with row, and flags.
      params: trainable scalars.
      macs: multiply-adds for one image.
      error: top-1 error in percent; the mean over seeds.
      half: half the width of the mean's 95 % confidence interval; NaN for one seed or a print.
      seeds: their number; 0 for a printed error.
    """

    data: str
    line: str
    network: str
    config: str
    params: int
    macs: int
    error: float
    half: float
    seeds: int


def measured_points(results: Path) -> list[Point]:
    """Return a point for each config in the tables of runs of a folder.

    Raises:
      UserError: for a file that can't be read or is no table of runs.
    """
    rows: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for file, row in read_results(results):
        try:
            numbers = {"params": int(row["params"]), "macs": int(row["macs"])}
            numbers["error"] = float(row["error"])
            key = row["config"], row["overrides"], row["seed"]
            numbers |= {name: row[name] for name in ("network", "data")}
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{file} can't be read: {one_line(error)}") from error
        if not (min(numbers["params"], numbers["macs"]) > 0 and 0 <= numbers["error"] <= 100):
            raise UserError(f"{file} is damaged: sizes must be above 0, errors in 0..100 %")
        rows.setdefault(key[:2], {})[key[2]] = {**row, **numbers}
    return [_measured(*names, list(by_seed.values())) for names, by_seed in rows.items()]


def _measured(config: str, overrides: str, rows: Sequence[Mapping[str, Any]]) -> Point:
    row = rows[0]
    error, _, half = mean_and_interval([each["error"] for each in rows])
    known = _load(config, overrides)
    data, line = _data_and_line(known) if known else (row["data"], row["network"])
    name, config = row["network"], f"{config} {overrides}".strip()
    return Point(data, line, name, config, row["params"], row["macs"], error, half, len(rows))


def _load(file: str, overrides: str) -> ml_collections.ConfigDict | None:
    """Load the config of a row if its file comes with the package, because reading it runs it."""
    root = config_lib.configs_folder()
    name, _, row = file.partition(".py:")
    path = root.parent / (f"{name}.py" if row else file)
    if path.resolve() not in {each.resolve() for each in root.rglob("*.py")}:
        return None
    try:
        flags = [flag.removeprefix("--config.") for flag in shlex.split(overrides, comments=True)]
        config = config_lib.load(f"{path}:{row}" if row else str(path), flags)
        find_family(config.model.name)
    except ValueError:  # also UserError, for a row or flag of another version
        return None
    return config


def _data_and_line(config: ml_collections.ConfigDict) -> tuple[str, str]:
    data, split = config.data.name, config.data.train_split
    family, pattern = find_family(config.model.name).name, config.model.topology
    if pattern is not None:
        names = [pattern] if isinstance(pattern, str) else pattern
        pattern = "+".join(name if isinstance(name, str) else "custom" for name in names)
        family = f"{family}, {pattern}"
    return data if split == "train" else f"{data}, {split}", family


def printed_points(family: str) -> Iterator[Point]:
    """Yield the printed errors of a family's folder of configs, with our networks' sizes.

    Raises:
      UserError: if there is no such folder.
    """
    for name, config in list_experiments(family):
        if config.paper.error is not None:
            error, network = config.paper.error, config.model.name
            yield Point(*_data_and_line(config), network, name, *size(config), error, math.nan, 0)


def draw(points: Sequence[Point]) -> Figure:
    """Draw a row for each data set: error over parameters, and over multiply-adds.

    Measured points are filled, with intervals, on a solid line; printed points are hollow, on a
    dashed line. There is at least one point.
    """
    sets, lines = (
        list(dict.fromkeys(values))
        for values in zip(*((p.data, p.line) for p in points), strict=True)
    )
    styles = {
        line: {"color": f"C{number % 10}", "marker": _MARKERS[number % len(_MARKERS)]}
        for number, line in enumerate(lines)
    }
    figure = Figure(figsize=(11, 3.6 * len(sets) + 0.3), dpi=120, layout="constrained")
    for name, row in zip(sets, figure.subplots(len(sets), 2, squeeze=False), strict=True):
        here = [point for point in points if point.data == name]
        for axes, (field, cost) in zip(row, _COSTS.items(), strict=True):
            _draw_lines(axes, here, field, styles)
            axes.set(xscale="log", xlabel=cost, ylabel="top-1 error, %")
            axes.grid(alpha=0.25, which="both")
            axes.set_title(name, fontsize=10, parse_math=False)
        handles = dict(zip(*reversed(row[0].get_legend_handles_labels()), strict=True))
        where = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
        row[1].legend(handles.values(), handles.keys(), frameon=False, fontsize=8, **where)
    return figure


def _draw_lines(
    axes: Axes, points: Iterable[Point], field: str, styles: Mapping[str, Mapping[str, str]]
) -> None:
    ordered = sorted(points, key=lambda p: (p.line, not p.seeds, getattr(p, field)))
    for (line, measured), group in itertools.groupby(ordered, lambda p: (p.line, p.seeds > 0)):
        group = list(group)
        axes.errorbar(
            [getattr(point, field) for point in group],
            [point.error for point in group],
            yerr=[point.half for point in group] if measured else None,
            linestyle="-" if measured else "--",
            linewidth=1,
            markersize=5,
            markerfacecolor=None if measured else "none",
            capsize=3,
            label=line if measured else f"{line} (printed)",
            **styles[line],
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this analysis."""
    parser.add_argument("--results", help="folder with tables of runs (CSV files); default results")
    parser.add_argument(
        "--printed",
        action="append",
        default=[],
        metavar="FAMILY",
        help="also draw the printed errors of the configs in this folder; may be repeated",
    )


def run(given: argparse.Namespace, output: Path) -> None:
    """Print the table, and write it with the picture."""
    results = Path(given.results or "results")
    if given.results is not None and not results.is_dir():
        raise UserError(f"results {results} is no folder")
    points = measured_points(results)
    points += itertools.chain.from_iterable(map(printed_points, dict.fromkeys(given.printed)))
    if not points:
        raise UserError(f"no tables of runs in {results}, and no --printed=FAMILY with errors")
    points.sort(key=lambda p: (p.data, p.line, not p.seeds, p.params))
    tables.print_table(list(map(_cells, points)), "parameter efficiency")
    tables.write_csv(output / "efficiency.csv", map(_record, points))
    write_figure(output / "efficiency.png", draw(points))
    print(f"{output / 'efficiency.csv'}, {output / 'efficiency.png'}")


def _record(point: Point) -> dict[str, Any]:
    """Return a point as plain numbers; without an interval for one seed or a printed error."""
    record = point._asdict()
    half, seeds = record.pop("half"), record.pop("seeds")
    low, high = (None, None) if math.isnan(half) else (point.error - half, point.error + half)
    return {**record, "low": low, "high": high, "seeds": seeds}


def _cells(point: Point) -> dict[str, str]:
    """Format a point for people."""
    low, high = point.error - point.half, point.error + point.half
    interval = "" if math.isnan(point.half) else f"{low:.2f} to {high:.2f}"
    return {
        "data": point.data,
        "family": point.line,
        "network": point.network,
        "parameters": f"{point.params:,}",
        "multiply-adds": f"{point.macs:,}",
        "error, %": f"{point.error:.2f}",
        "95 % interval": interval,
        "seeds": str(point.seeds) if point.seeds else "printed",
        "config": point.config,
    }
