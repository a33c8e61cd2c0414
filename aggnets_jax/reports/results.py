"""Tables of results, made from the workdirs of finished runs."""

import contextlib
import csv
import io
import itertools
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections

from aggnets_jax import config as config_lib
from aggnets_jax.errors import UserError, one_line
from aggnets_jax.files import local_path, read_json, write_text
from aggnets_jax.statistics import mean_and_interval
from aggnets_jax.workdir.folder import CONFIG, SUMMARY, read_summary

_FALLBACK = "configs/default.py"

_PAGE = """# {name}

Made by `aggnets results WORKDIR ... --output={output}`;
[{name}.csv]({name}.csv) has a row for each run and seed.

Errors are top-1 errors in percent, after the last step: their mean and standard deviation over the
seeds, and the 95 % confidence interval of the mean by Student's t distribution. Beside them stands
what a paper prints.

"""

_COLUMNS = (
    "config",
    "network",
    "parameters",
    "data",
    "steps",
    "seeds",
    "error",
    "deviation",
    "95 % interval",
    "printed",
)


class Result(NamedTuple):
    """What came out of a run for one of its seeds.

    Attributes:
      workdir: of the run, as given.
      command: that makes the run.
      record: columns of the CSV file.
    """

    workdir: str
    command: str
    record: dict[str, Any]


def read_run(workdir: str | Path) -> list[Result]:
    """The results of a finished run, one for each seed.

    Raises:
      UserError: if there is no finished run, or its files are damaged.
    """
    path = local_path(workdir)
    if not path.is_dir():
        raise UserError(f"workdir {workdir} does not exist or is no directory")
    if not (path / CONFIG).exists():
        raise UserError(f"workdir {workdir} holds no run: it has no {CONFIG}")
    if not (path / SUMMARY).exists():
        raise UserError(f"workdir {workdir} holds a run that is not finished: no {SUMMARY}")
    try:
        config = config_lib.resolve(read_json(path / CONFIG))
    except UserError as error:
        raise UserError(f"workdir {workdir}: {error}") from error
    summary = read_summary(path)
    name, overrides, seeds = config_and_overrides(config)
    command = ["aggnets", "train", f"--config={name}", *overrides, *seeds]
    command = shlex.join([*command, f"--workdir={workdir}"])
    overrides = shlex.join(overrides)
    for change in summary["config_changes"]:
        # No command alone reproduces such a run.
        changed = f"after step {change['step']}: {', '.join(change['changes'])}"
        command, overrides = f"{command} # {changed}", f"{overrides} # {changed}".strip()
    return [
        Result(str(workdir), command, _record(config, name, overrides, summary, each))
        for each in summary["seeds"]
    ]


def config_and_overrides(
    config: ml_collections.ConfigDict,
) -> tuple[str, list[str], list[str]]:
    """What --config says of a resolved config, and the flags in which it differs from that file.

    Where its file is none of those that come with the package, or can't be read, it differs from
    `configs/default.py`: reading a config file runs it, and a workdir may be from anybody.

    Returns:
      The file, with its row, and the flags; those of the seeds apart.
    """
    root = config_lib.configs_folder().parent
    ours = set(map(str, config_lib.configs_folder().rglob("*.py")))
    for path in (Path.cwd() / config.file, root / config.file, root / _FALLBACK):
        file = os.path.normpath(path)  # so that nothing leads elsewhere than it seems to
        name, _, row = file.partition(".py:")
        if (f"{name}.py" if row else file) in ours:
            with contextlib.suppress(UserError):
                base = config_lib.load(file)
                break
    flags, seeds = [], []
    changes = config_lib.changes(config_lib.to_json(base), config_lib.to_json(config))
    for field, (_, value) in changes.items():
        if value is None and field in config_lib.LENGTHS:
            continue  # setting the other unsets it
        flag = f"--config.{field}={value}"
        (seeds if field in ("seed", "num_seeds") else flags).append(flag)
    return os.path.relpath(file, root), flags, seeds


def _record(
    config: ml_collections.ConfigDict,
    name: str,
    overrides: str,
    summary: dict[str, Any],
    at_seed: dict[str, Any],
) -> dict[str, Any]:
    network, final = summary["network"], at_seed["final"]
    return {
        "config": name,
        "overrides": overrides,
        "network": network["name"],
        "params": network["params"],
        "macs": network["macs"],
        "data": config.data.name,
        "steps": summary["steps"],
        "seed": at_seed["seed"],
        "seeds_at_once": config.num_seeds,
        "error": _error(final["accuracy"]),
        "error_top5": _error(final["accuracy_top5"]),
        "best_error": _error(at_seed["best"]["accuracy"]),
        "loss": f"{final['loss']:.6g}",
        "images_per_second": f"{summary['images_per_second']:.1f}",
        "paper": config.paper.source,
        "paper_error": config.paper.error,
        "paper_error_top5": config.paper.error_top5,
        "commit": summary.get("commit"),
        "hardware": summary["hardware"],
        "versions": ", ".join(f"{k} {v}" for k, v in summary["versions"].items()),
        "fingerprint": at_seed["fingerprint"],
    }


def _error(accuracy: float) -> float:
    """In %, to the digits that tell one image in a million from none."""
    return round(100 * (1 - accuracy), 4)


def groups(results: Iterable[Result]) -> list[list[Result]]:
    """Results that differ in nothing but the seed, together, in the order of the first of each.

    Raises:
      UserError: if two are of the same config and seed.
    """
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


def table(results: Sequence[Result]) -> str:
    """The CSV file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, results[0].record, lineterminator="\n")
    writer.writeheader()
    writer.writerows(result.record for result in results)
    return text.getvalue()


def page(grouped: Sequence[Sequence[Result]], output: Path) -> str:
    """The page: a row for each group, the commands, and what they ran on."""
    lines = [f"| {' | '.join(_COLUMNS)} |", f"|{'---|' * len(_COLUMNS)}"]
    lines += [f"| {' | '.join(_cells(group))} |" for group in grouped]
    lines += provenance(list(itertools.chain.from_iterable(grouped)))
    return _PAGE.format(name=output.name, output=output) + "\n".join(lines) + "\n"


def provenance(results: Sequence[Result]) -> list[str]:
    """The lines of a page that say which commands made some results, and what they ran on."""
    commands = dict.fromkeys(result.command for result in results)
    lines = ["", "## Commands", "", *(f"    {command}" for command in commands)]
    lines += ["", "## Made with", ""]
    for column in ("commit", "hardware", "versions"):
        values = dict.fromkeys(str(result.record[column] or "unknown") for result in results)
        lines.append(f"* {column}: {'; '.join(values)}")
    return lines


def output_path(given: str) -> Path:
    """What --output=NAME says; raises `UserError` if it names one of the two files."""
    output = Path(given)
    if output.suffix in (".csv", ".md"):
        raise UserError(f"--output={output} makes two files: give it without {output.suffix}")
    return output


def write_tables(output: Path, rows: str, page: str) -> None:
    """Writes NAME.csv and NAME.md.

    Raises:
      UserError: if they can't be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        for suffix, text in ((".csv", rows), (".md", page)):
            write_text(output.with_name(output.name + suffix), text)
    except OSError as error:
        raise UserError(f"--output={output} can't be written: {one_line(error)}") from error


def _cells(group: Sequence[Result]) -> list[str]:
    first = group[0].record
    mean, deviation, half = mean_and_interval([result.record["error"] for result in group])
    printed = f"{first['paper_error']:g} ({first['paper']})" if first["paper_error"] else ""
    several = len(group) > 1
    return [
        " ".join(f"`{text}`" for text in (first["config"], first["overrides"]) if text),
        f"`{first['network']}`",
        f"{first['params']:,}",
        first["data"],
        f"{first['steps']:,}",
        str(len(group)),
        f"{mean:.2f}",
        f"{deviation:.2f}" if several else "",
        f"{mean - half:.2f} to {mean + half:.2f}" if several else "",
        printed,
    ]
