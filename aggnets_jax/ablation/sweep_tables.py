"""The files of a sweep: a table for each kind of sets, and `ablation.json` with everything."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from aggnets_jax.ablation.sets import CutSet
from aggnets_jax.ablation.tally import COLUMNS, Measurement
from aggnets_jax.errors import UserError
from aggnets_jax.files import AnyPath, check_fields, read_json, write_json
from aggnets_jax.tables import print_table, write_csv

RECORD = "ablation.json"

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


def finite(value: float) -> float | None:
    """Return a number that JSON has, or None for NaN and infinities."""
    return value if math.isfinite(value) else None


def earlier_sweeps(
    folder: AnyPath, network: Mapping[str, Any], kinds: Collection[str]
) -> dict[str, Any]:
    """Read the sweeps from an earlier record in a folder, except the kinds that are cut now.

    Raises:
      UserError: if the record is of another network (as JSON data), or damaged.
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
    folder: AnyPath,
    record: Mapping[str, Any],
    kinds: Mapping[str, Sequence[Row]],
    earlier: Mapping[str, Any],
    columns: Sequence[str] = COLUMNS,
) -> None:
    """Write into a folder the tables of some kinds of sets, and the record.

    `record` has the fields that all sets share; sweeps from `earlier_sweeps` stay. `columns` are
    the fields of a measurement in the tables.

    Raises:
      OSError: if the folder can't be written.
    """
    sweeps = dict(earlier)
    for kind, rows in kinds.items():
        lines = [
            {**cut.key, **{name: f"{getattr(measured, name):.9g}" for name in columns}}
            for cut, measured in rows
        ]
        write_csv(folder / FILES[kind], lines)
        sweeps[kind] = [
            {**cut.key, **{name: finite(value) for name, value in measured._asdict().items()}}
            for cut, measured in rows
        ]
    write_json(folder / RECORD, {**record, "sweeps": sweeps})


def growth(row: Row) -> float:
    """Return the growth of the loss; a loss that is not finite has grown most.

    It differs even where no answer changes.
    """
    return row[1].loss_delta if math.isfinite(row[1].loss_delta) else math.inf


def print_worst(title: str, rows: Sequence[Row]) -> None:
    """Print the rows that lose most accuracy; among equal ones, those that gain most loss."""
    worst = sorted(rows, key=lambda row: (row[1].delta, -growth(row)))[:MOST_ROWS]
    shown = [
        {
            **{name: str(value) for name, value in cut.key.items() if name != "cut"},
            "accuracy": f"{m.accuracy:.2%}",
            "change": f"{100 * m.delta:+.2f}",
            "95 % interval": f"{100 * m.ci_low:+.1f} to {100 * m.ci_high:+.1f}",
            "loss change": f"{m.loss_delta:+.4f}",
        }
        for cut, m in worst
    ]
    print_table(shown, f"{title}: {len(shown)} of {len(rows)}", left=("stage", "set"))
