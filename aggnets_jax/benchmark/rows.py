"""Rows of measurements: on the terminal, as CSV and JSON, and in results/speed.csv."""

import contextlib
import csv
import dataclasses
import importlib.metadata
import io
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import aggnets_jax
from aggnets_jax.errors import UserError
from aggnets_jax.files import explained, local_path, read_text, write_text
from aggnets_jax.tables import csv_text, print_table
from aggnets_jax.workdir.provenance import commit, hardware

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")


@dataclasses.dataclass(frozen=True)
class Row:
    """A measurement; docs/benchmark.md explains the columns. `None` is an empty cell.

    Times, bytes and operations are per step, except for `macs`, which is per image.
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
"""Columns of results/speed.csv, and of `--csv`, where "table" is empty."""

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


def origin(command: str) -> dict[str, str]:
    """Return the columns `ORIGIN` of numbers: hardware, versions, commit and the given command."""
    versions = {"python": platform.python_version(), "aggnets_jax": aggnets_jax.__version__}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    versions = ", ".join(f"{name} {version}" for name, version in versions.items())
    return dict(zip(ORIGIN, (hardware(), versions, commit() or "", command), strict=True))


def show(rows: Iterable[Row]) -> None:
    """Print a table of the most important columns."""
    records = []
    for row in rows:
        cells = {title: _cell(getattr(row, name)) for name, title in _SHOWN.items()}
        if row.batch != row.asked_batch:
            cells["batch"] = f"{row.batch} of {row.asked_batch}"
        if row.ms is not None:
            cells["ms"] += f" ({_cell(row.ms_low)}-{_cell(row.ms_high)})"
        if row.ratio is not None:
            cells["ratio"] += f" ({_cell(row.ratio_low)}-{_cell(row.ratio_high)})"
        records.append(cells)
    print_table(records, left=("model", "mode", "form"))


def write_json(path: str | Path, rows: Iterable[Row], origin: Mapping[str, str]) -> None:
    """Write rows and their origin to a JSON file; raise `UserError` if that fails."""
    record = {**origin, "rows": [dataclasses.asdict(row) for row in rows]}
    _write(path, json.dumps(record, indent=2) + "\n")


def write_csv(path: str | Path, rows: Iterable[Row], origin: Mapping[str, str]) -> None:
    """Write rows to a CSV file with all `COLUMNS`; raise `UserError` if that fails."""
    _write_records(path, [record(row, origin) for row in rows])


def record(row: Row, origin: Mapping[str, str], table: str = "") -> dict[str, str]:
    """Return a line of a table in results/speed.csv, by column; floats have four digits."""
    cells = {name: _cell(value) for name, value in dataclasses.asdict(row).items()}
    return {"table": table, **cells, **origin}


def read_records(path: str | Path) -> list[dict[str, str]]:
    """Read a file like results/speed.csv; a missing file has no lines.

    Raises:
      UserError: if it has other columns.
    """
    path = local_path(path)
    if not path.exists():
        return []
    reader = csv.DictReader(io.StringIO(read_text(path)))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise UserError(f"{path} has other columns than a table of speeds")
    return list(reader)


def replace_records(path: str | Path, new: Sequence[Mapping[str, str]]) -> None:
    """Add lines to a file like results/speed.csv, replacing lines of the same table and command.

    Raises:
      UserError: if the file can't be written, or is another one.
    """
    made = {(line["table"], line["command"]) for line in new}
    kept = [line for line in read_records(path) if (line["table"], line["command"]) not in made]
    _write_records(path, [*kept, *new])


def _write_records(path: str | Path, records: Iterable[Mapping[str, str]]) -> None:
    _write(path, csv_text(sorted(records, key=lambda line: line["table"]), COLUMNS))


def _write(path: str | Path, text: str) -> None:
    with explained(f"{path} can't be written"):
        write_text(local_path(path), text)


def _cell(value: Any) -> str:
    """Format a value; floats get four digits."""
    if value is None:
        return ""
    return f"{float(f'{value:.4g}'):.10g}" if isinstance(value, float) else str(value)
