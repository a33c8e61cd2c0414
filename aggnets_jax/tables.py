"""What an analysis found, as records: a CSV file for programs, and a table for people."""

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aggnets_jax.files import write_text


def save(records: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Writes a CSV file at once, with a column for each field of the records.

    Args:
      records: at least one; all have the same fields. None is an empty cell.
      file: to write.

    Raises:
      OSError: if it can't be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, records[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    write_text(file, text.getvalue())


def show(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Prints a table, the first column left and the others right.

    Args:
      title: above it.
      rows: at least one; cells by column, all with the same columns.
    """
    table = Table(title=Text(title))
    for number, column in enumerate(rows[0]):
        table.add_column(Text(column), justify="right" if number else "left", overflow="fold")
    for row in rows:
        # Names of classes and files are no markup.
        table.add_row(*map(Text, row.values()))
    # A file or a pipe has no width to fit into.
    Console(width=None if sys.stdout.isatty() else 1000).print(table)
