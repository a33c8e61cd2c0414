"""What a sweep leaves behind: a table for each kind of sets, and one record of everything."""

import csv
import io
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from aggnets_jax.ablation.sets import CutSet
from aggnets_jax.ablation.tally import Measurement
from aggnets_jax.errors import UserError
from aggnets_jax.files import check_fields, read_json, write_json, write_text

RECORD = "ablation.json"
COLUMNS = ("accuracy", "delta", "ci_low", "ci_high", "loss")
"""Of a measurement, behind those that tell the sets of a table apart."""

FILES = {
    "links": "links.csv",
    "sources": "sources.csv",
    "layers": "layers.csv",
    "distance": "distances.csv",
    "random": "random.csv",
    "list": "list.csv",
}
"""Tables by the kind of their sets."""

Row = tuple[CutSet, Measurement]

MOST_ROWS = 10


def csv_text(rows: Sequence[Row]) -> str:
    """The table of one kind of sets: a row for each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*rows[0][0].key, *COLUMNS])
    for cut, measured in rows:
        numbers = [f"{getattr(measured, name):.9g}" for name in COLUMNS]
        writer.writerow([*cut.key.values(), *numbers])
    return text.getvalue()


def record_of(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """All that is known of one kind of sets, as JSON data: NaN and infinities are null."""
    return [
        {**cut.key, **{name: finite(value) for name, value in measured._asdict().items()}}
        for cut, measured in rows
    ]


def finite(value: float) -> float | None:
    """A number that JSON has, or None."""
    return value if math.isfinite(value) else None


def earlier_sweeps(
    folder: Path, network: Mapping[str, Any], kinds: Collection[str]
) -> dict[str, Any]:
    """What an earlier record in a folder says of other kinds of sets.

    Args:
      folder: that there is.
      network: which one is ablated now.
      kinds: of the sets that are cut now, whose tables are written anew.

    Raises:
      UserError: if that is of another network, or the record is damaged.
    """
    if not (folder / RECORD).exists():
        return {}
    earlier = read_json(folder / RECORD)
    sweeps = earlier.get("sweeps")
    check_fields(folder / RECORD, sweeps, {}, "sweeps")
    check_fields(folder / RECORD, sweeps, {kind: list for kind in FILES if kind in sweeps})
    others = {kind: sweeps[kind] for kind in FILES if kind in sweeps and kind not in kinds}
    if others and earlier.get("network") != network:
        raise UserError(
            f"{folder} has tables of another network, or of other batch statistics:"
            f" {', '.join(FILES[kind] for kind in others)}; give --output=FOLDER"
        )
    return others


def write(
    folder: Path,
    record: Mapping[str, Any],
    kinds: Mapping[str, Sequence[Row]],
    earlier: Mapping[str, Any],
) -> None:
    """Writes tables and the record.

    Args:
      folder: that there is.
      record: what is the same for all sets.
      kinds: rows, by the kind of sets.
      earlier: from `earlier_sweeps`, which stay in the record.

    Raises:
      OSError: if the folder can't be written.
    """
    for kind, rows in kinds.items():
        write_text(folder / FILES[kind], csv_text(rows))
    records = {kind: record_of(rows) for kind, rows in kinds.items()}
    write_json(folder / RECORD, {**record, "sweeps": {**earlier, **records}})


def least_first(rows: Sequence[Row]) -> list[Row]:
    """Rows by how much the loss grows, which tells links apart whose cut changes no answer."""

    def growth(row: Row) -> float:
        growth = row[1].loss_delta
        return growth if math.isfinite(growth) else math.inf

    return sorted(rows, key=growth)


def worst_first(rows: Sequence[Row]) -> list[Row]:
    """Rows by how much accuracy is lost, and of those that lose the same, how much the loss grows.

    Losses that are not finite have grown most.
    """

    def harm(row: Row) -> tuple[float, float]:
        loss = row[1].loss_delta
        return row[1].delta, -loss if math.isfinite(loss) else -math.inf

    return sorted(rows, key=harm)


def table(title: str, rows: Sequence[Row]) -> Table:
    """The rows that matter most, for people."""
    shown = Table(title=escape(f"{title}: {min(MOST_ROWS, len(rows))} of {len(rows)}"))
    keys = [name for name in rows[0][0].key if name != "cut"]
    for name in keys:
        shown.add_column(name, justify="left" if name in ("stage", "set") else "right")
    for name in ("accuracy", "change", "95 % interval", "loss change"):
        shown.add_column(name, justify="right", no_wrap=True)
    for cut, m in worst_first(rows)[:MOST_ROWS]:
        shown.add_row(
            *(escape(str(cut.key[name])) for name in keys),
            f"{m.accuracy:.2%}",
            f"{100 * m.delta:+.2f}",
            f"{100 * m.ci_low:+.1f} to {100 * m.ci_high:+.1f}",
            f"{m.loss_delta:+.4f}",
        )
    return shown
