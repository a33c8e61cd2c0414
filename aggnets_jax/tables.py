"""Tables as CSV, as Markdown, and in the terminal.

A table is a list of records, each a mapping from column to cell, all with the same columns in the
same order. Cells of CSV files are plain values; None is an empty cell. Cells of the other tables
are texts for readers.

    write_csv(folder / "links.csv", [{"layer": 2, "source": 0, "loss": 0.25}, ...])
    print_table([{"layer": "2", "source": "0", "loss": "0.2500"}, ...], "single links")
    page = markdown([{"layer": "2", "source": "0", "loss": "0.2500"}, ...])
"""

import csv
import io
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aggnets_jax.files import write_text


def csv_text(records: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Return a table as CSV, with a line of column names and a line for each record.

    The columns have the order of the first record if none is given, which then must exist.
    """
    records = list(records)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns or list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def write_csv(
    file: Path, records: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None
) -> None:
    """Write a table as `csv_text` into a file, whole or not at all.

    Raises:
      OSError: if the file can't be written.
    """
    write_text(file, csv_text(records, columns))


def markdown(records: Sequence[Mapping[str, str]]) -> str:
    """Return at least one record as a Markdown table; bars in cells are escaped."""
    rows = [[cell.replace("|", r"\|") for cell in record.values()] for record in records]
    lines = [f"| {' | '.join(row)} |" for row in [[*records[0]], *rows]]
    return "\n".join([lines[0], f"|{'---|' * len(records[0])}", *lines[1:]])


def print_table(
    records: Sequence[Mapping[str, object]],
    title: str | None = None,
    left: Collection[str] | None = None,
) -> None:
    """Print at least one record as a table, as wide as it needs unless a terminal is narrower.

    Cells are printed as they are, without markup, below the title. The columns `left`, by default
    the first one, are texts, aligned to the left; the others are numbers, aligned to the right.
    """
    columns = list(records[0])
    table = Table(title=None if title is None else Text(title))
    for column in columns:
        is_text = column in (columns[:1] if left is None else left)
        table.add_column(Text(column), justify="left" if is_text else "right", overflow="fold")
    for record in records:
        table.add_row(*(Text(str(cell)) for cell in record.values()))
    # A file or a pipe has no width to fit into.
    Console(width=None if sys.stdout.isatty() else 1000).print(table)
