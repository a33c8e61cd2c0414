"""Several runs side by side: sizes, accuracies or APs with intervals, and curves."""

from collections.abc import Mapping, Sequence
from typing import Any

from aggnets_jax.errors import UserError, one_line
from aggnets_jax.files import AnyPath, any_path, explained
from aggnets_jax.models import create_configured_model
from aggnets_jax.reports.compare import changes, name_of
from aggnets_jax.reports.curves import Lines, points, save_several
from aggnets_jax.reports.metrics import curves_of
from aggnets_jax.reports.results import Result, precisions, provenance
from aggnets_jax.statistics import accuracy_interval, mean_and_interval
from aggnets_jax.tables import markdown, print_table
from aggnets_jax.workdir.folder import read_config, read_summary
from aggnets_jax.workdir.metric_log import read_json_lines

Groups = Sequence[Sequence[Result]]
"""Results of networks, each with one for each of its seeds."""

_MOST_STEPS = 8  # of the table of curves
_TITLES = {"accuracy": "accuracy", "bbox_AP": "box AP", "segm_AP": "mask AP"}

_OF_IMAGES = (
    "The interval of a single run is a 95 % confidence interval (Wilson) for the accuracy of this"
    " one trained network on all images like the test images."
)
_OF_SEEDS = (
    "The interval of several seeds is a 95 % confidence interval (Student's t) for the mean"
    " over all seeds on these test images."
)
_SINGLE = (
    "Single runs can't tell which network is better. Another seed often changes a network's result"
    " by as much as these runs differ, and no interval of a single run contains this change. Train"
    " each network with several seeds ({seeds}) and compare again: differences are then paired by"
    " seed, with an interval and a test."
)
_SAME_IMAGES = (
    "All runs were evaluated on the same images, so overlapping intervals are no test either."
)


def rows(groups: Groups) -> list[dict[str, Any]]:
    """Return a record of plain numbers for each network; accuracies and APs are in 0..1."""
    columns = precisions(groups)
    return [_row(*each, columns) for each in zip(_names(groups), groups, strict=True)]


def _names(groups: Groups) -> list[str]:
    """Return a name for each network; networks of several runs may have equal names."""
    names = [name_of(group) for group in groups]
    return [
        name if names.count(name) == 1 else f"{group[0].workdir}, ..."
        for name, group in zip(names, groups, strict=True)
    ]


def _row(name: str, group: Sequence[Result], columns: Sequence[str]) -> dict[str, Any]:
    summary = read_summary(any_path(group[0].workdir))
    first, examples = group[0].record, summary["final"].get("examples")
    measured: dict[str, Any] = {}
    for column in columns:
        values = [result.record[column] / 100 for result in group]
        measured |= _with_interval(_TITLES[column].replace(" ", "_"), values)
    if not columns:
        measured = _with_interval("accuracy", [1 - r.record["error"] / 100 for r in group])
        if len(group) == 1 and isinstance(examples, int) and examples > 0:
            interval = accuracy_interval(measured["accuracy"], examples)
            measured |= dict(zip(("interval_low", "interval_high"), interval, strict=True))
        measured["loss"] = mean_and_interval([float(r.record["loss"]) for r in group])[0]
    return {
        "run": name,
        "network": first["network"],
        "pattern": _pattern(group[0].workdir),
        "links": summary["network"]["links"],
        "parameters": first["params"],
        "multiply_adds": first["macs"],
        "data": first["data"],
        "steps": first["steps"],
        "seeds": len(group),
        "test_images": examples,
        **measured,
    }


def _with_interval(name: str, values: Sequence[float]) -> dict[str, float | None]:
    """Return a mean with its interval over seeds, which a single value does not have."""
    mean, _, half = mean_and_interval(values)
    low, high = (None, None) if len(values) == 1 else (mean - half, mean + half)
    prefix = "" if name == "accuracy" else f"{name}_"
    return {name: mean, f"{prefix}interval_low": low, f"{prefix}interval_high": high}


def _pattern(workdir: str) -> str:
    """Return the names of the patterns of a run's stages; "" if its code is missing."""
    config = read_config(any_path(workdir))
    try:
        topologies = create_configured_model(config, num_classes=2).topologies
    except UserError:
        return ""
    return "+".join(dict.fromkeys(topology.name for topology in topologies))


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    cells = {
        "run": row["run"],
        "network": row["network"],
        "pattern": row["pattern"],
        "links": f"{row['links']:,}",
        "parameters": f"{row['parameters']:,}",
        "multiply-adds": f"{row['multiply_adds']:,}",
        "steps": f"{row['steps']:,}",
        "seeds": str(row["seeds"]),
    }
    for name, prefix in (("accuracy", ""), ("box_AP", "box_AP_"), ("mask_AP", "mask_AP_")):
        if name in row:
            low, high = (row[f"{prefix}interval_{end}"] for end in ("low", "high"))
            cells[name.replace("_", " ")] = f"{row[name]:.2%}"
            title = f"{prefix.replace('_', ' ')}95 % interval"
            cells[title] = "" if low is None else f"{100 * low:.2f} to {100 * high:.2f}"
    cells["test images"] = "" if row["test_images"] is None else f"{row['test_images']:,}"
    if "loss" in row:
        cells["loss"] = f"{row['loss']:.4f}"
    return cells


def _logs(groups: Groups) -> dict[str, list[tuple[Lines, int]]]:
    """Return log and seed of each run, by network; runs without a log are left out."""
    logs: dict[str, list[tuple[Lines, int]]] = {}
    for name, group in zip(_names(groups), groups, strict=True):
        for result in group:
            file = any_path(result.workdir) / "metrics.jsonl"
            if file.exists():
                log = (read_json_lines(file), result.record["seed"])
                logs.setdefault(name, []).append(log)
    return logs


def _curve_cells(groups: Groups) -> list[dict[str, str]]:
    """Return accuracy or box AP of each network by step, at up to `_MOST_STEPS` steps."""
    metric = f"eval/{(*precisions(groups), 'accuracy')[0]}"
    curves = {
        name: [points(lines, metric, seed) for lines, seed in runs]
        for name, runs in _logs(groups).items()
    }
    steps = sorted({step for runs in curves.values() for curve in runs for step in curve})
    every = -(-len(steps) // _MOST_STEPS) or 1
    table = []
    for step in [*steps[::-every][::-1]]:
        cells = {"step": f"{step:,}"}
        for name, runs in curves.items():
            there = [curve[step] for curve in runs if step in curve]
            cells[name] = f"{sum(there) / len(there):.2%}" if len(there) == len(runs) else ""
        table.append(cells)
    return table


def _differences(groups: Groups) -> list[str]:
    """Return a line for each network with the fields in which it differs from the first."""
    first, *others = _names(groups)
    lines = []
    for name, group in zip(others, groups[1:], strict=True):
        found = [f"{field} ({values})" for field, values in changes(groups[0], group).items()]
        lines.append(one_line(f"{name} differs from {first} in {', '.join(found)}"))
    return lines


def _explanation(groups: Groups) -> list[str]:
    single = [len(group) == 1 for group in groups]
    texts = [_OF_IMAGES] if any(single) and not precisions(groups) else []
    texts += [_OF_SEEDS] if not all(single) else []
    if not any(single):
        return texts
    if precisions(groups):
        return [*texts, _SINGLE.format(seeds="--config.seed=1, --config.seed=2, ...")]
    found = {field for group in groups[1:] for field in changes(groups[0], group)}
    same = not found & {"data.data_dir", "data.name", "data.eval_split"}
    several = _SINGLE.format(seeds="--config.num_seeds=5")
    return [*texts, several, *[_SAME_IMAGES] * same]


def show(groups: Groups) -> None:
    """Print sizes, accuracies and curves of networks, and the limits of such a comparison."""
    texts = ("run", "network", "pattern")
    print_table([_cells(row) for row in rows(groups)], "networks", left=texts)
    if curves := _curve_cells(groups):
        title = _TITLES[(*precisions(groups), "accuracy")[0]]
        print_table(curves, f"{title} in evaluation, by step", left=())
    print("\n".join([*_differences(groups), *_explanation(groups)]))


def draw(groups: Groups, file: AnyPath) -> bool:
    """Draw the curves of all networks as `save_several`; return False if no run has a log."""
    logs = _logs(groups)
    if logs:
        lines = [line for runs in logs.values() for lines, _ in runs for line in lines]
        keys = {key: value for line in lines for key, value in line.items()}
        there = {key.removeprefix("eval/"): v for key, v in keys.items() if key.startswith("eval/")}
        save_several(logs, file, curves_of(there))
    return bool(logs)


def report(groups: Groups, file: AnyPath) -> None:
    """Print networks as `show`, and draw their curves into a file.

    Raises:
      UserError: if the file can't be written, or no run has a log.
    """
    if file.suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"--output={file} must end with .png, .pdf or .svg")
    show(groups)
    with explained(f"--output={file} can't be written"):
        if not draw(groups, file):
            raise UserError("none of these runs has a metrics.jsonl")
    print(f"curves: {file}")


def page(groups: Groups, output: AnyPath) -> str:
    """Return the Markdown page: the tables, the picture NAME.png, and the commands."""
    curves = _curve_cells(groups)
    parts = [
        f"# {output.name}",
        "\n".join(["Runs side by side.", *_explanation(groups)]),
        markdown([_cells(row) for row in rows(groups)]),
        *([f"![Curves of all networks]({output.name}.png)", markdown(curves)] if curves else []),
        *_differences(groups),
    ]
    results = [result for group in groups for result in group]
    return "\n\n".join(parts) + "\n" + "\n".join(provenance(results)) + "\n"
