"""Comparisons of transfer results: paired by seed, or side by side."""

import csv
from pathlib import Path

import numpy as np
import pytest

from aggnets_jax.errors import UserError
from aggnets_jax.main import main
from aggnets_jax.reports import compare
from aggnets_jax.tables import write_csv
from tests.reports.test_compare import DENSE, write

FIELDS = {"data": "aggnets_mnist5k", "endpoint": "pre_logits", "setting": ""}


def write_transfer(workdirs, linear, few, **changes):
    for workdir, *accuracies in zip(workdirs, linear, few, strict=True):
        methods = zip(("linear", "few-shot"), (4000, 50), accuracies, strict=True)
        rows = [
            {**FIELDS, **changes, "method": m, "images": n, "accuracy": a, "low": a, "high": a}
            for m, n, a in methods
        ]
        folder = Path(workdir, "analysis")
        folder.mkdir(exist_ok=True)
        write_csv(folder / "transfer.csv", rows)
    return workdirs


def test_errors_of_classifiers_are_paired_by_seed(tmp_path, capsys):
    dense = write(tmp_path / "dense", [0.5, 0.5, 0.5], DENSE)
    sparse = write(tmp_path / "sparse", [0.5, 0.5, 0.5])
    write_transfer(dense, [0.9, 0.8, 0.85], [0.5, 0.6, 0.4])
    write_transfer(sparse[::-1], [0.8, 0.7, 0.7], [0.5, 0.5, 0.5])
    found = compare.compare(dense, sparse, transfer=True)
    assert [each.measure for each in found.differences] == ["linear", "few-shot 50"]
    assert found.differences[0].mean == pytest.approx(-100 * np.mean([0.2, 0.1, 0.05]))
    given = [*map(str, dense), "--against", *map(str, sparse), "--transfer"]
    assert main(["compare", *given, f"--output={tmp_path / 'table'}"]) == 0
    out = capsys.readouterr().out
    assert "few-shot 50" in out and "after the last step" not in out
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert [row["measure"] for row in rows] == ["linear", "few-shot 50"]
    assert float(rows[0]["difference"]) == pytest.approx(found.differences[0].mean, abs=1e-4)


def test_single_runs_are_side_by_side(tmp_path, capsys):
    runs = [*write(tmp_path / "dense", [0.5], DENSE), *write(tmp_path / "sparse", [0.5])]
    write_transfer(runs, [0.91, 0.82], [0.53, 0.64])
    assert main(["compare", *map(str, runs), "--transfer"]) == 0
    out = capsys.readouterr().out
    assert all(text in out for text in ("91.00%", "82.00%", "53.00%", "64.00%", "pre_logits"))


def test_files_that_do_not_fit_are_refused(tmp_path):
    dense = write(tmp_path / "dense", [0.5, 0.5], DENSE)
    sparse = write(tmp_path / "sparse", [0.5, 0.5])
    write_transfer(dense, [0.9, 0.8], [0.5, 0.6])
    with pytest.raises(UserError, match="aggnets analyse transfer --workdir="):
        compare.compare(dense, sparse, transfer=True)
    write_transfer(sparse, [0.9, 0.8], [0.5, 0.6], data="aggnets_digits")
    with pytest.raises(UserError, match=r"has data \w+, and of .* aggnets_\w+$"):
        compare.compare(dense, sparse, transfer=True)
    Path(sparse[0], "analysis", "transfer.csv").write_text("method,images\nlinear,x\n")
    with pytest.raises(UserError, match="is damaged"):
        compare.compare(dense, sparse, transfer=True)
