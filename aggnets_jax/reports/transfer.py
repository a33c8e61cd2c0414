"""Results of `aggnets analyse transfer` in comparisons of networks."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from aggnets_jax.errors import UserError
from aggnets_jax.files import any_path, explained, read_text
from aggnets_jax.reports.results import Result
from aggnets_jax.tables import print_table

Groups = Sequence[Sequence[Result]]
"""Results of networks, each with one for each of its seeds."""

_FILE = "analysis/transfer.csv"
_SAME = ("data", "endpoint")

_EXPLANATION = (
    "Accuracies of classifiers on the frozen features of a network, with 95 % intervals: Wilson's"
    " over images, for few-shot Student's over draws. They know nothing of other seeds of the"
    " network. Compare several seeds of each for that."
)


def read(result: Result) -> dict[str, dict[str, Any]]:
    """Return the records of a run's `transfer.csv` by the names of their measures.

    Raises:
      UserError: if the file is missing or damaged, or the run has several seeds.
    """
    file = any_path(result.workdir) / _FILE
    if result.record["seeds_at_once"] > 1:
        raise UserError(
            f"workdir {result.workdir} has several seeds in one run, and {_FILE} of one alone"
        )
    if not file.exists():
        raise UserError(f"{file} is missing; aggnets analyse transfer --workdir={result.workdir}")
    with explained(f"{file} is damaged", KeyError, TypeError, ValueError, csv.Error):
        rows = list(csv.DictReader(io.StringIO(read_text(file))))
        return {
            _name(row): {
                **{name: row[name] for name in _SAME},
                "images": int(row["images"]),
                **{name: float(row[name]) for name in ("accuracy", "low", "high")},
            }
            for row in rows
        }


def _name(row: dict[str, str]) -> str:
    """Return the name of a measure: the method, for few-shot with the number of images."""
    return f"{row['method']} {row['images']}" if row["method"] == "few-shot" else row["method"]


def add_errors(groups: Groups) -> tuple[list[list[Result]], tuple[str, ...]]:
    """Return results with the errors of transfer in their records, in percent, and these names.

    Raises:
      UserError: as `read`, or if the runs differ in the data set or the features, or have no
        method in common.
    """
    found = {result.workdir: read(result) for group in groups for result in group}
    (first, rows), *others = found.items()
    for workdir, there in others:
        for name in _SAME:
            ours, theirs = ({row[name] for row in each.values()} for each in (rows, there))
            if ours != theirs:
                texts = [", ".join(sorted(each)) for each in (ours, theirs)]
                raise UserError(
                    f"transfer of {first} has {name} {texts[0]}, and of {workdir} {texts[1]}"
                )
    names = tuple(name for name in rows if all(name in there for there in found.values()))
    if not names:
        raise UserError(f"transfer of {first} and of the others have no method in common")
    with_errors = [
        [
            result._replace(
                record={
                    **result.record,
                    **{n: 100 * (1 - found[result.workdir][n]["accuracy"]) for n in names},
                }
            )
            for result in group
        ]
        for group in groups
    ]
    return with_errors, names


def show(groups: Groups) -> list[dict[str, Any]]:
    """Print the accuracies of networks with one run each, and return the records."""
    _, names = add_errors(groups)
    records = [
        {"network": result.workdir, "method": name, **read(result)[name]}
        for name in names
        for (result,) in groups
    ]
    cells = [
        {
            "method": record["method"],
            "network": record["network"],
            "accuracy": f"{record['accuracy']:.2%}",
            "95 % interval": f"{100 * record['low']:.2f} to {100 * record['high']:.2f}",
        }
        for record in records
    ]
    first = records[0]
    print_table(cells, f"transfer of {first['endpoint']} to {first['data']}", ("method", "network"))
    print(_EXPLANATION)
    return records
