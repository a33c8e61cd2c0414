"""Tables are written for programs and printed for people, whatever their cells hold."""

import csv

import pytest

from aggnets_jax.tables import csv_text, markdown, print_table, write_csv

RECORDS = [{"name": "a,b", "value": 0.1}, {"name": None, "value": 3}]


def test_csv_files_have_all_records_in_the_order_of_the_columns(tmp_path):
    file = tmp_path / "table.csv"
    write_csv(file, iter(RECORDS), ("value", "name"))
    assert file.read_text() == 'value,name\n0.1,"a,b"\n3,\n'
    write_csv(file, RECORDS)
    with file.open(newline="") as lines:
        assert list(csv.DictReader(lines)) == [
            {"name": "a,b", "value": "0.1"},
            {"name": "", "value": "3"},
        ]
    assert csv_text([], ("name", "value")) == "name,value\n"
    assert [file.name for file in tmp_path.iterdir()] == ["table.csv"]
    with pytest.raises(OSError, match="none"):
        write_csv(tmp_path / "none" / "table.csv", RECORDS)


def test_bars_end_no_cell_of_a_markdown_table():
    table = markdown([{"a": "1 | 2", "b": "3"}])
    assert table.split("\n") == ["| a | b |", "|---|---|", "| 1 \\| 2 | 3 |"]


def test_printed_cells_are_no_markup_and_are_not_cut(capsys):
    print_table([{"name": "[red]" + "x" * 300, "n": 12}, {"name": "y", "n": 5}], "[b]title")
    out = capsys.readouterr().out
    assert "[b]title" in out and "[red]" + "x" * 300 in out
    lines = [line for line in out.splitlines() if "x" in line or "y" in line]
    assert [line.split()[-2] for line in lines] == ["12", "5"]
    assert lines[0].index("2") == lines[1].index("5")  # numbers are on the right
    assert lines[1].index("y") == lines[0].index("[red]")
