"""Rows of measurements: on the terminal, as CSV and as JSON, and in the table of all speeds."""

import csv
import dataclasses
import importlib.metadata
import io
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

import aggnets_jax
from aggnets_jax.errors import UserError, one_line
from aggnets_jax.files import local_path, write_text
from aggnets_jax.workdir.provenance import commit, hardware

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")


@dataclasses.dataclass(frozen=True)
class Row:
    """A measurement; None where there is nothing to say. docs/benchmark.md explains each.

    Times are of one step; bytes and operations are of one step, too, but `macs`, of one image.
    """

    model: str
    mode: str
    form: str
    against: str | None = None
    asked_batch: int | None = None
    batch: int | None = None
    image: str | None = None
    dtype: str | None = None
    images_per_second: float | None = None
    ms: float | None = None
    ms_low: float | None = None
    ms_high: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    repeats: int | None = None
    steps: int | None = None
    lower_s: float | None = None
    compile_s: float | None = None
    argument_mb: float | None = None
    output_mb: float | None = None
    alias_mb: float | None = None
    temp_mb: float | None = None
    device_peak_mb: float | None = None
    params: int | None = None
    macs: int | None = None
    xla_gflop: float | None = None
    gflop_per_s: float | None = None
    matmul_gflop_per_s: float | None = None
    mfu: float | None = None
    mfu_published: float | None = None
    xla_gb: float | None = None
    gb_per_s: float | None = None
    copy_gb_per_s: float | None = None
    bandwidth: float | None = None
    difference: float | None = None


FIELDS = tuple(field.name for field in dataclasses.fields(Row))
ORIGIN = ("hardware", "versions", "commit", "command")
COLUMNS = ("table", *FIELDS, *ORIGIN)
"""Of results/speed.csv, and of `--csv`, where there is no table."""

_SHOWN = {
    "model": "model",
    "mode": "mode",
    "form": "form",
    "batch": "batch",
    "images_per_second": "images/s",
    "ms": "ms",
    "ratio": "ratio",
    "compile_s": "compile s",
    "temp_mb": "temp MB",
    "mfu": "MFU",
}
_NAMES = ("model", "mode", "form")


def origin(command: str) -> dict[str, str]:
    """Where numbers come from: hardware, versions, commit and command."""
    versions = ", ".join(f"{name} {version}" for name, version in _versions().items())
    return dict(zip(ORIGIN, (hardware(), versions, commit() or "", command), strict=True))


def show(rows: Iterable[Row]) -> None:
    """Prints a table of what matters most."""
    table = Table(
        *(
            Column(told, no_wrap=True, justify="left" if name in _NAMES else "right")
            for name, told in _SHOWN.items()
        )
    )
    for row in rows:
        cells = {name: _text(getattr(row, name)) for name in _SHOWN}
        if row.batch != row.asked_batch:
            cells["batch"] = f"{row.batch} of {row.asked_batch}"
        if row.ms is not None:
            cells["ms"] += f" ({_text(row.ms_low)}-{_text(row.ms_high)})"
        if row.ratio is not None:
            cells["ratio"] += f" ({_text(row.ratio_low)}-{_text(row.ratio_high)})"
        table.add_row(*cells.values())
    console = Console()
    # What is no terminal has no width to keep to.
    Console(width=None if console.is_terminal else 200).print(table)


def write_json(path: str | Path, rows: Iterable[Row], origin: Mapping[str, str]) -> None:
    """Writes rows, and where they come from.

    Raises:
      UserError: if the file can't be written.
    """
    record = {**origin, "rows": [dataclasses.asdict(row) for row in rows]}
    _write(path, json.dumps(record, indent=2) + "\n")


def write_csv(path: str | Path, rows: Iterable[Row], origin: Mapping[str, str]) -> None:
    """Writes rows with the columns of results/speed.csv.

    Raises:
      UserError: if the file can't be written.
    """
    _write_records(path, [record(row, origin) for row in rows])


def record(row: Row, origin: Mapping[str, str], table: str = "") -> dict[str, str]:
    """A line of CSV; numbers have four digits.

    Args:
      row: the measurement.
      origin: where it comes from, see `origin`.
      table: that it belongs to in results/speed.csv.
    """
    cells = {name: _text(value) for name, value in dataclasses.asdict(row).items()}
    return {"table": table, **cells, **origin}


def read_records(path: str | Path) -> list[dict[str, str]]:
    """The lines of a file like results/speed.csv; none if there is no file.

    Raises:
      UserError: if it has other columns.
    """
    path = local_path(path)
    if not path.exists():
        return []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise UserError(f"{path} has other columns than a table of speeds")
        return list(reader)


def replace_records(path: str | Path, new: Sequence[Mapping[str, str]]) -> None:
    """Puts lines into a file like results/speed.csv, in the place of those that they are new of.

    These are the lines of the same table that the same command has made.

    Raises:
      UserError: if the file can't be written, or is another one.
    """
    made = {(line["table"], line["command"]) for line in new}
    kept = [line for line in read_records(path) if (line["table"], line["command"]) not in made]
    _write_records(path, [*kept, *new])


def _write_records(path: str | Path, records: Iterable[Mapping[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(records, key=lambda line: line["table"]))
    _write(path, text.getvalue())


def _write(path: str | Path, text: str) -> None:
    try:
        write_text(local_path(path), text)
    except OSError as error:
        raise UserError(f"{path} can't be written: {one_line(error)}") from error


def _text(value: Any) -> str:
    """A cell; of numbers that are no whole ones, four digits."""
    if value is None:
        return ""
    return f"{float(f'{value:.4g}'):.10g}" if isinstance(value, float) else str(value)


def _versions() -> dict[str, str]:
    """Of Python, this package and those that numbers depend on, if they are installed."""
    versions = {"python": platform.python_version(), "aggnets_jax": aggnets_jax.__version__}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
