"""Rows in files, and lines in the table of all speeds."""

import csv

import pytest

from aggnets_jax.benchmark.rows import (
    COLUMNS,
    ORIGIN,
    Row,
    origin,
    read_records,
    record,
    replace_records,
)
from aggnets_jax.errors import UserError


def _line(table, command, **changes):
    where = dict.fromkeys(ORIGIN, "somewhere") | {"command": command}
    return record(Row("net", "train", "default", **changes), where, table)


def test_numbers_have_four_digits():
    line = _line("t", "c", ms=12345.678, temp_mb=0.00123456, ratio=2.0, batch=100_003)
    assert (line["ms"], line["temp_mb"], line["ratio"]) == ("12350", "0.001235", "2")
    assert line["batch"] == "100003"
    assert line["images_per_second"] == ""


def test_lines_of_the_same_command_and_table_are_replaced(tmp_path):
    file = tmp_path / "speed.csv"
    replace_records(file, [_line("b", "one", ms=1.0), _line("b", "two", ms=2.0)])
    replace_records(file, [_line("a", "one", ms=3.0)])
    replace_records(file, [_line("b", "one", ms=4.0), _line("b", "one", ms=5.0)])
    lines = read_records(file)
    assert [(line["table"], line["command"], line["ms"]) for line in lines] == [
        ("a", "one", "3"),
        ("b", "two", "2"),
        ("b", "one", "4"),
        ("b", "one", "5"),
    ]
    with file.open(newline="") as text:
        assert tuple(next(csv.reader(text))) == COLUMNS


def test_another_table_is_refused(tmp_path):
    file = tmp_path / "speed.csv"
    file.write_text("network,ms\nnet,1\n")
    with pytest.raises(UserError, match="has other columns than a table of speeds"):
        replace_records(file, [_line("a", "one")])
    assert file.read_text() == "network,ms\nnet,1\n"


def test_where_numbers_come_from():
    where = origin("aggnets benchmark")
    assert tuple(where) == ORIGIN
    assert "jax " in where["versions"]
    assert "tensorflow" not in where["versions"]
    assert where["command"] == "aggnets benchmark"
