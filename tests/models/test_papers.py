"""papers.csv against the papers' tables, value by value, and how configs read it."""

import pytest

from aggnets_jax import config as config_lib
from aggnets_jax import list_models
from aggnets_jax.errors import UserError
from aggnets_jax.models import papers
from aggnets_jax.models.registry import find_printed
from tests import runs
from tests.models.paper_tables import TABLES

PAPERS = ("SparseNet", "SeqConv", "HCGNet", "Micro-Dense", "DSNet")


def printed_row(columns, text):
    """Return a printed row's network and its numbers as papers.csv should have them."""
    numbers, _, network = text.rpartition(" -> ")
    cells = dict(zip(columns, numbers.split()[-len(columns) :], strict=True))
    found = {"params": None, "flops": None}
    for column, cell in cells.items():
        if cell in ("-", "x", "N/A") or column in ("ratio", "time"):
            continue
        kind, _, unit = column.partition(" ")
        if kind.startswith("accuracy"):
            error = round(100 - float(cell), 1)
            found[kind.replace("accuracy", "imagenet2012")] = error
        elif kind in ("params", "flops"):
            found[kind] = cell + {"(M)": "M", "(B)": "G", "": ""}[unit]
        else:
            found[kind] = float(cell.rstrip("*"))
    return network, found


def numbers_of(row):
    """Return the numbers of a row of papers.csv."""
    top5 = {f"{data}_top5": error for data, error in row.error_top5.items()}
    return {"params": row.params, "flops": row.flops, **row.error, **top5}


@pytest.mark.parametrize("source", TABLES)
def test_numbers_are_the_papers(source):
    columns, text = TABLES[source]
    lines = [line.strip() for line in text.strip().splitlines()]
    expected = dict(printed_row(columns, line) for line in lines)
    assert len(expected) == len(lines)
    ours = {row.network: numbers_of(row) for row in papers.rows() if row.source == source}
    assert ours == expected


def test_all_tables_of_the_five_papers_are_compared():
    assert {row.source for row in papers.rows() if row.paper in PAPERS} == set(TABLES)


def test_rows_are_no_copies():
    rows = papers.rows()
    assert len({(row.network, row.source) for row in rows}) == len(rows)
    # Errors in percent, sizes and FLOPs with their unit.
    assert all(0 < error < 100 for row in rows for error in row.error.values())
    assert all(row.error_top5.keys() <= row.error.keys() for row in rows)
    assert all(row.params is None or float(row.params.removesuffix("M")) > 0 for row in rows)
    assert all(row.flops is None or float(row.flops.removesuffix("G")) > 0 for row in rows)


def test_the_first_row_is_the_one_of_the_network():
    assert find_printed("efficientnet_b0").source == "EfficientNet, Table 2"
    assert find_printed("mdnet30_a64").source == "Micro-Dense, Table 3"
    assert find_printed("seqresnet_b22").error == {"imagenet2012": 23.67}
    assert find_printed("sparsenet22_k4") is None
    assert {row.network for row in papers.rows()} == set(list_models())


def test_a_table_is_reproduced_without_rows_that_it_quotes():
    rows = list(papers.reproduced("DSNet, Table 7", "imagenet2012"))
    assert [network for network, *_ in rows] == ["dsnet50", "ds2net50", "dsres2net50"]
    assert rows[0][1:] == (
        "imagenet2012",
        {
            "model.name": "dsnet50",
            "data.name": "imagenet2012",
            "paper.source": "DSNet, Table 7",
            "paper.error": 22.49,
            "paper.error_top5": 6.29,
            "paper.remark": "",
        },
    )


def test_an_unknown_table_is_told_with_the_nearest():
    with pytest.raises(UserError, match="nearest: DSNet, Table"):
        list(papers.reproduced("DSNet, Table 77", "imagenet2012"))


def test_configs_have_all_errors_that_the_five_papers_do_not_quote():
    trained = set()
    for file in sorted((runs.ROOT / "configs").glob("*/*.py")):
        for row in config_lib.rows(file):
            config = config_lib.load(f"{file}:{row}")
            if config.paper.error is not None:
                trained.add((config.paper.source, config.model.name, config.data.name))
    own = [row for row in papers.rows() if row.paper in PAPERS and not row.quoted]
    assert trained == {(row.source, row.network, data) for row in own for data in row.error}
