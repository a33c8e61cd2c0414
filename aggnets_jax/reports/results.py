"""Tables of results, made from the workdirs of finished runs."""

import contextlib
import itertools
import json
import os
import shlex
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections

from aggnets_jax import config as config_lib
from aggnets_jax.data.catalog import is_of_folder
from aggnets_jax.errors import UserError, one_line
from aggnets_jax.files import PathLike, any_path, has_folder, make_folder, write_text
from aggnets_jax.statistics import mean_and_interval
from aggnets_jax.tables import csv_text, markdown
from aggnets_jax.workdir.folder import CONFIG, read_config, read_summary

_PAGE = """# {name}

Made by `aggnets results WORKDIR ... --output={output}`;
[{name}.csv]({name}.csv) has a row for each run and seed.

{columns}

"""
_ERRORS = """\
Errors are top-1 errors in percent, after the last step: their mean and standard deviation over the
seeds, and the 95 % confidence interval of the mean by Student's t distribution. The last column is
the error that the paper prints."""
_PRECISIONS = """\
AP is COCO's average precision in percent, of boxes and of masks, after the last step: its mean and
standard deviation over the seeds, and the 95 % confidence interval of the mean by Student's t
distribution."""


class Result(NamedTuple):
    """Result of a run for one of its seeds: the columns of the CSV file.

    The workdir is as given; the command reproduces the run, if need be with what its comments name.
    """

    workdir: str
    command: str
    record: dict[str, Any]


def read_run(workdir: PathLike) -> list[Result]:
    """Read the results of a finished run, one for each seed.

    Raises:
      UserError: if there is no finished run, or its files are damaged.
    """
    path = any_path(workdir)
    if not has_folder(path):
        raise UserError(f"workdir {workdir} does not exist or is no directory")
    if not (path / CONFIG).exists():
        raise UserError(f"workdir {workdir} holds no run: it has no {CONFIG}")
    config, summary = read_config(path), read_summary(path)
    name, overrides, seeds = config_and_overrides(config)
    command = ["aggnets", "train", f"--config={name}", *overrides, *seeds]
    command = shlex.join([*command, f"--workdir={workdir}"])
    overrides = shlex.join(overrides)
    for change in summary["config_changes"]:
        # A single command does not reproduce this run: add the change as a comment.
        changed = f"after step {change['step']}: {', '.join(change['changes'])}"
        command, overrides = f"{command} # {changed}", f"{overrides} # {changed}".strip()
    if patterns := config.model.patterns:
        # Code may change under one name: the links tell networks apart.
        links = zlib.crc32(json.dumps(patterns.to_dict(), sort_keys=True).encode())
        code = f"{', '.join(sorted(patterns))} of {config.file}, links {links:08x}"
        command, overrides = f"{command} # {code}", f"{overrides} # {code}".strip()
    return [
        Result(str(workdir), command, _record(config, name, overrides, summary, each))
        for each in summary["seeds"]
    ]


def config_and_overrides(config: ml_collections.ConfigDict) -> tuple[str, list[str], list[str]]:
    """Return the flags that reproduce a resolved config: --config and overrides.

    If the config's file does not come with the package, or can't be read, the overrides are
    relative to `configs/default.py`: reading a config file runs it, and a workdir may be untrusted.

    Returns:
      The file with its row; overrides as flags; overrides of the seeds as flags.
    """
    root = config_lib.configs_folder().parent
    ours = set(map(str, config_lib.configs_folder().rglob("*.py")))
    for path in (Path.cwd() / config.file, root / config.file, root / "configs/default.py"):
        file = os.path.normpath(path)  # resolve ..
        name, _, row = file.partition(".py:")
        if (f"{name}.py" if row else file) in ours:
            with contextlib.suppress(UserError):
                base = config_lib.load(file)
                break
    flags = [f"--config.plugins={config.plugins!r}"] if config.plugins != base.plugins else []
    seeds = []
    if is_of_folder(config.data.name):
        flags.append(f"--config.data.data_dir={config.data.data_dir}")
    changes = config_lib.changes(config_lib.to_json(base), config_lib.to_json(config))
    for field, (_, value) in changes.items():
        if value is None and field in config_lib.LENGTHS:
            continue  # setting the other unsets it
        if field == "model.patterns":
            continue  # filled in when the run starts
        flag = f"--config.{field}={value}"
        (seeds if field in ("seed", "num_seeds") else flags).append(flag)
    return os.path.relpath(file, root), flags, seeds


def _record(
    config: ml_collections.ConfigDict,
    name: str,
    overrides: str,
    summary: dict[str, Any],
    seed_summary: dict[str, Any],
) -> dict[str, Any]:
    network, final = summary["network"], seed_summary["final"]
    return {
        "config": name,
        "overrides": overrides,
        "network": network["name"],
        "params": network["params"],
        "macs": network["macs"],
        "data": config.data.name,
        "steps": summary["steps"],
        "seed": seed_summary["seed"],
        "seeds_at_once": config.num_seeds,
        **_measured(final, seed_summary["best"]),
        "images_per_second": f"{summary['images_per_second']:.1f}",
        "paper": config.paper.source,
        "paper_error": config.paper.error,
        "paper_error_top5": config.paper.error_top5,
        "commit": summary.get("commit"),
        "hardware": summary["hardware"],
        "versions": ", ".join(f"{k} {v}" for k, v in summary["versions"].items()),
        "fingerprint": seed_summary["fingerprint"],
    }


def _measured(final: Mapping[str, Any], best: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a task's measures: errors, or AP of boxes and masks, in %."""
    if "accuracy" in final:
        return {
            "error": _error(final["accuracy"]),
            "error_top5": _error(final["accuracy_top5"]),
            "best_error": _error(best["accuracy"]),
            "loss": f"{final['loss']:.6g}",
        }
    if "mAP" in final:
        raise UserError(
            "runs of several labels for an image have no table of results; `aggnets report`"
            " shows one"
        )
    names = [f"{kind}_{figure}" for kind in ("bbox", "segm") for figure in ("AP", "AP50", "AP75")]
    return {name: round(100 * final[name], 4) if name in final else None for name in names}


def _error(accuracy: float) -> float:
    """Return an error in %, with enough digits for one image in a million."""
    return round(100 * (1 - accuracy), 4)


def check_one_task(grouped: Iterable[Sequence[Result]]) -> None:
    """Raise `UserError` if results are of different tasks."""
    if len({"bbox_AP" in result.record for group in grouped for result in group}) > 1:
        raise UserError("runs of detectors and of classifiers have no table in common")


def groups(results: Iterable[Result]) -> list[list[Result]]:
    """Group results that differ only in the seed, in the order of their first results.

    Raises:
      UserError: if two results have the same config and seed, or are of different tasks.
    """
    results = list(results)
    check_one_task([results])
    by_config: dict[tuple[str, str], dict[int, Result]] = {}
    for result in results:
        record = result.record
        seeds = by_config.setdefault((record["config"], record["overrides"]), {})
        if record["seed"] in seeds:
            raise UserError(
                f"workdirs {seeds[record['seed']].workdir} and {result.workdir} have runs of the"
                f" same config and seed {record['seed']}; give one of them"
            )
        seeds[record["seed"]] = result
    return [list(seeds.values()) for seeds in by_config.values()]


def precisions(grouped: Sequence[Sequence[Result]]) -> tuple[str, ...]:
    """Return the columns of AP that all detectors have, or () for classifiers."""
    records = [result.record for group in grouped for result in group]
    columns = ("bbox_AP", "segm_AP")
    return tuple(name for name in columns if all(r.get(name) is not None for r in records))


def page(grouped: Sequence[Sequence[Result]], output: Path) -> str:
    """Return the Markdown page: a row for each group, the commands, hardware and versions."""
    table = markdown([_cells(group) for group in grouped])
    results = list(itertools.chain.from_iterable(grouped))
    columns = _PRECISIONS if "bbox_AP" in results[0].record else _ERRORS
    head = _PAGE.format(name=output.name, output=output, columns=columns)
    return "\n".join([head + table, *provenance(results)]) + "\n"


def provenance(results: Sequence[Result]) -> list[str]:
    """Return the lines of a page with the commands of results, hardware and versions."""
    commands = dict.fromkeys(result.command for result in results)
    lines = ["", "## Commands", "", *(f"    {command}" for command in commands)]
    lines += ["", "## Made with", ""]
    for column in ("commit", "hardware", "versions"):
        values = dict.fromkeys(str(result.record[column] or "unknown") for result in results)
        lines.append(f"* {column}: {'; '.join(values)}")
    return lines


def output_path(given: str) -> Path:
    """Return the path of --output=NAME; raise `UserError` if it names one of the two files."""
    output = any_path(given)
    if given.endswith("/"):
        raise UserError(f"--output={given} names a folder: give it with a name, {given}NAME")
    if output.suffix in (".csv", ".md"):
        raise UserError(f"--output={output} makes two files: give it without {output.suffix}")
    return output


def write_tables(output: Path, records: Sequence[Mapping[str, Any]], page: str) -> None:
    """Write NAME.csv and NAME.md; raise `UserError` if they can't be written."""
    try:
        make_folder(output.parent)
        for suffix, text in ((".csv", csv_text(records)), (".md", page)):
            write_text(output.with_name(output.name + suffix), text)
    except OSError as error:
        raise UserError(f"--output={output} can't be written: {one_line(error)}") from error


def _cells(group: Sequence[Result]) -> dict[str, str]:
    first = group[0].record
    cells = {
        "config": " ".join(f"`{text}`" for text in (first["config"], first["overrides"]) if text),
        "network": f"`{first['network']}`",
        "parameters": f"{first['params']:,}",
        "data": first["data"],
        "steps": f"{first['steps']:,}",
        "seeds": str(len(group)),
    }
    if "bbox_AP" in first:
        for kind, name in (("box", "bbox_AP"), ("mask", "segm_AP")):
            found = ("", "", "") if first[name] is None else _statistics(group, name)
            columns = (f"{kind} {column}" for column in ("AP", "deviation", "95 % interval"))
            cells |= dict(zip(columns, found, strict=True))
        return cells
    mean, deviation, interval = _statistics(group, "error")
    printed = f"{first['paper_error']:g} ({first['paper']})" if first["paper_error"] else ""
    measured = {"error": mean, "deviation": deviation, "95 % interval": interval}
    return {**cells, **measured, "printed": printed}


def _statistics(group: Sequence[Result], name: str) -> tuple[str, str, str]:
    """Return mean, deviation and 95 % interval of a column; the last two need several seeds."""
    mean, deviation, half = mean_and_interval([result.record[name] for result in group])
    if len(group) == 1:
        return f"{mean:.2f}", "", ""
    return f"{mean:.2f}", f"{deviation:.2f}", f"{mean - half:.2f} to {mean + half:.2f}"
