"""The model of docs/scaling.md: what it predicts, and that it says what compiled programs do."""

import csv
import itertools
from pathlib import Path

import pytest

from results import scaling

ROOT = Path(__file__).parents[1]


def rows(file):
    with file.open() as lines:
        return list(csv.DictReader(lines))


@pytest.mark.slow
def test_predictions_are_the_kept_ones_and_fall_with_devices(tmp_path):
    scaling.main(["--tables=predicted", f"--output={tmp_path}"])
    made = rows(tmp_path / "scaling_predicted.csv")
    assert made == rows(ROOT / "results" / "scaling_predicted.csv")
    for before, after in itertools.pairwise(made):
        if before["system"] == after["system"] and before["network"] == after["network"]:
            assert float(after["efficiency"]) <= float(before["efficiency"]) <= 1


def test_the_kept_programs_hold_and_send_what_the_model_says():
    made = rows(ROOT / "results" / "scaling.csv")
    assert {row["network"] for row in made} == {w.network for w in scaling.WORKLOADS}
    for row in made:
        assert float(row["state_mb"]) == pytest.approx(float(row["state_mb_model"]), rel=0.02)
        for kind in ("all_reduce_mb", "all_gather_mb"):
            assert float(row[kind]) == pytest.approx(float(row[f"{kind}_model"]), rel=0.05)


def test_other_tables_are_refused():
    with pytest.raises(scaling.UserError, match=r"'timd'.*timed"):
        scaling.main(["--tables=timd"])
