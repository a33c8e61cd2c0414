"""The numbers that papers print about networks, from `papers.csv`.

A row of `papers.csv` is a row of a paper's table: the network by its name here, the paper and its
table ("Table 3, +" is a row that the paper marks with "+"), sizes and FLOPs as printed, errors in
percent by data set, whether the paper quotes the row from another paper, and a remark where print
and network differ. `list_models` lists every network of the file, so networks without printed
numbers have a row, too. docs/models.md has the first row of each network.
"""

import csv
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aggnets_jax.errors import unknown

DATA_SETS = ("cifar10", "cifar100", "imagenet2012")


class Printed(NamedTuple):
    """A paper's row about a network.

    Attributes:
      network: name of the network here.
      paper: short name of the paper, such as "SparseNet".
      table: table of the paper, such as "Table 2".
      params: parameters as printed, such as "1.5M", or None.
      flops: FLOPs as printed, in the paper's own convention, or None.
      error: top-1 error in percent by data set; CIFAR with standard augmentation.
      error_top5: top-5 error in percent by data set.
      quoted: whether the paper quotes the row from another paper.
      remark: where print and network differ, or "".
    """

    network: str
    paper: str
    table: str
    params: str | None
    flops: str | None
    error: Mapping[str, float]
    error_top5: Mapping[str, float]
    quoted: bool
    remark: str

    @property
    def source(self) -> str:
        """Paper and table, such as "SparseNet, Table 2"."""
        return f"{self.paper}, {self.table}"


@functools.cache
def rows() -> tuple[Printed, ...]:
    """Return all rows of `papers.csv`."""
    with Path(__file__).with_name("papers.csv").open(newline="", encoding="utf-8") as file:
        return tuple(map(_parse, csv.DictReader(file)))


def _parse(row: Mapping[str, str]) -> Printed:
    def errors(suffix: str) -> dict[str, float]:
        cells = {data: row.get(data + suffix) for data in DATA_SETS}
        return {data: float(cell) for data, cell in cells.items() if cell}

    return Printed(
        network=row["network"],
        paper=row["paper"],
        table=row["table"],
        params=row["params"] or None,
        flops=row["flops"] or None,
        error=errors(""),
        error_top5=errors("_top5"),
        quoted=row["quoted"] == "yes",
        remark=row["remark"],
    )


@functools.cache
def first_rows() -> dict[str, Printed]:
    """Return the first row of each network, by the network's name."""
    return {row.network: row for row in reversed(rows())}


def reproduced(source: str, *data: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the fields of a config for each error that a table prints and does not quote.

    Args:
      source: paper and table, such as "SparseNet, Table 2".
      *data: data sets to train on, such as "cifar10".

    Yields:
      The network's name, the data set, and the fields for a row of a config's `sweep()`.

    Raises:
      UserError: for an unknown table.
    """
    own = [row for row in rows() if row.source == source and not row.quoted]
    if not own:
        raise unknown("table of a paper", source, {row.source for row in rows()})
    for row in own:
        for name in filter(row.error.get, data):
            yield (
                row.network,
                name,
                {
                    "model.name": row.network,
                    "data.name": name,
                    "paper.source": source,
                    "paper.error": row.error[name],
                    "paper.error_top5": row.error_top5.get(name),
                    "paper.remark": row.remark,
                },
            )
