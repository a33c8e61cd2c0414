"""Runs side by side: sizes, intervals, curves, and what single runs can't tell."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from aggnets_jax.main import main
from aggnets_jax.reports import compare, curves, side_by_side
from tests.reports.test_compare import DENSE, WINDOWED, write
from tests.reports.test_results import with_precisions, write_run


def with_logs(workdirs, examples=200):
    """Add logs of three evaluations, which end with the accuracy of the summary."""
    for workdir in workdirs:
        summary = json.loads((file := _file(workdir, "summary.json")).read_text())
        summary["final"]["examples"] = examples
        file.write_text(json.dumps(summary))
        end = summary["final"]["accuracy"]
        lines = [
            {"step": step, "eval/accuracy": share * end, "eval/loss": 1 / step, "train/loss": 2.0}
            for step, share in ((2, 0.5), (4, 0.75), (7, 1))
        ]
        _file(workdir, "metrics.jsonl").write_text(
            "".join(f"{json.dumps(line)}\n" for line in lines)
        )
    return workdirs


def _file(workdir, name):
    return Path(workdir) / name


@pytest.fixture
def singles(tmp_path):
    return [
        *with_logs(write(tmp_path / "sparse", [0.9])),
        *with_logs(write(tmp_path / "dense", [0.93], DENSE)),
    ]


def test_runs_on_other_data_are_not_called_evaluated_on_the_same(tmp_path, capsys):
    other = write(tmp_path / "other", [0.93], ("data.eval_split=train",))
    singles = with_logs([*write(tmp_path / "sparse", [0.9]), *other])
    assert main(["compare", *singles]) == 0
    out = capsys.readouterr().out
    assert "data.eval_split" in out and "Single runs can't tell" in out
    assert "on the same images" not in out


@pytest.fixture
def detectors(tmp_path):
    """Return the workdirs of two detectors, each with two seeds of AP 0.5 and 0.6."""
    change = with_precisions("bbox_AP", "bbox_AP50", "bbox_AP75")
    pair = [
        write_run(tmp_path / name, [0.1, 0.1], overrides, change=change)
        for name, overrides in (("sparse", ()), ("dense", DENSE))
    ]
    for workdir in pair:
        lines = [{"step": n, "eval/bbox_AP": n / 10, "train/loss": 2.0} for n in (2, 5)]
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        _file(workdir, "metrics.jsonl").write_text(text)
    return pair


def test_detectors_are_compared_by_their_precision(detectors, tmp_path, capsys):
    assert main(["compare", *detectors, f"--output={tmp_path / 'table'}"]) == 0
    out = capsys.readouterr().out
    assert "above zero, the network is better. AP is COCO's average precision in percent" in out
    with (tmp_path / "table.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["measure"], row["reference_mean"], row["difference"]) == ("bbox_AP", "55", "0")


def test_single_detectors_need_seeds_one_by_one(tmp_path, capsys):
    change = with_precisions("bbox_AP", "bbox_AP50", "bbox_AP75")
    pair = [write_run(tmp_path / f"lr{lr}", [0.1], [f"lr={lr}"], change=change) for lr in (1, 2)]
    assert main(["compare", *pair]) == 0
    out = capsys.readouterr().out
    assert "several seeds (--config.seed=1, --config.seed=2, ...)" in out and "Wilson" not in out


def test_detectors_are_shown_side_by_side(detectors, tmp_path, capsys):
    assert main(["report", *detectors, f"--output={tmp_path / 'curves.png'}"]) == 0
    out = capsys.readouterr().out
    assert "box AP in evaluation, by step" in out and "55.00%" in out and "mask" not in out
    assert "accuracy" not in out and "-8.53 to 118.53" in out


def test_single_runs_have_intervals_of_their_images(singles, tmp_path, capsys):
    output = tmp_path / "out" / "both"
    assert main(["compare", *singles, f"--output={output}"]) == 0
    out = capsys.readouterr().out
    with output.with_name("both.csv").open(newline="") as file:
        sparse, dense = csv.DictReader(file)
    for row, right, pattern in ((sparse, 180, "sparse"), (dense, 186, "dense")):
        interval = stats.binomtest(right, 200).proportion_ci(0.95, method="wilson")
        found = [float(row[f"interval_{end}"]) for end in ("low", "high")]
        np.testing.assert_allclose(found, interval)
        assert (row["pattern"], row["seeds"], row["test_images"]) == (pattern, "1", "200")
        assert int(row["links"]) > 0 and int(row["parameters"]) > 0
        assert f"{100 * interval.low:.2f} to {100 * interval.high:.2f}" in out
    assert "90.00%" in out and "93.00%" in out
    assert "accuracy in evaluation, by step" in out and "46.50%" in out
    assert "differs from" in out and "model.topology (None and 'dense')" in out
    assert "Single runs can't tell which network is better" in out
    assert "All runs were evaluated on the same images" in out
    assert output.with_name("both.png").read_bytes().startswith(b"\x89PNG")
    page = output.with_name("both.md").read_text()
    assert "](both.png)" in page and "Single runs can't tell" in page and "--config=" in page


def test_several_seeds_are_paired_without_a_named_reference(tmp_path, capsys):
    sparse = write(tmp_path / "sparse", [0.9, 0.91])
    dense = write(tmp_path / "dense", [0.92, 0.95], DENSE)
    assert main(["compare", *sparse, *dense]) == 0
    first = capsys.readouterr().out
    assert main(["compare", *dense, "--against", *sparse]) == 0
    assert capsys.readouterr().out == first
    assert "paired t test" in first and "Single runs" not in first
    assert main(["compare", *sparse]) == 2
    assert "all runs are of one network" in capsys.readouterr().err


def test_a_run_without_a_log_and_without_its_number_of_images(tmp_path, capsys):
    runs = [*write(tmp_path / "sparse", [0.9]), *write(tmp_path / "dense", [0.8], DENSE)]
    assert main(["compare", *runs]) == 0
    out = capsys.readouterr().out
    assert "90.00%" in out and "by step" not in out
    assert main(["report", *runs, f"--output={tmp_path}/c.png"]) == 2
    assert "none of these runs has a metrics.jsonl" in capsys.readouterr().err


def test_curves_have_bands_over_seeds(tmp_path, capsys, monkeypatch):
    drawn = {}

    def draw(networks, file, metrics):
        drawn.update(networks)
        curves.save_several(networks, file, metrics)

    monkeypatch.setattr(side_by_side, "save_several", draw)
    runs = with_logs(write(tmp_path / "sparse", [0.9, 0.8, 0.7]))
    runs += with_logs(write(tmp_path / "dense", [0.95], DENSE))
    runs += with_logs(write(tmp_path / "window", [0.5, 0.6], WINDOWED))
    assert main(["report", *runs, f"--output={tmp_path}/c.svg"]) == 0
    assert "<svg" in (tmp_path / "c.svg").read_text()
    names = [name.rpartition("/")[2] for name in drawn]
    assert names == ["sparse", "dense-0", "window"]
    assert [len(logs) for logs in drawn.values()] == [3, 1, 2]
    steps, values = curves._over_seeds(
        [curves.points(lines, "eval/accuracy", seed) for lines, seed in next(iter(drawn.values()))]
    )
    assert steps == [2, 4, 7]
    np.testing.assert_allclose(values[:, -1], [0.9, 0.8, 0.7])
    out = capsys.readouterr().out
    # The mean of several seeds has Student's interval, a single run Wilson's.
    mean, half = 0.8, stats.t.ppf(0.975, 2) * 0.1 / np.sqrt(3)
    assert f"{100 * (mean - half):.2f} to {100 * (mean + half):.2f}" in out
    assert "Student's t" in out and "(Wilson)" in out


def test_the_seeds_of_one_run_are_told_apart():
    lines = [{"step": 1, "eval/loss": 2.0, "eval/loss/seed0": 1.0, "eval/loss/seed1": 3.0}]
    assert curves.points(lines, "eval/loss", 1) == {1: 3.0}
    assert curves.points(lines, "eval/loss") == {1: 2.0}
    lines = [{"step": 1, "train/loss": 3.0}, {"step": 1, "eval/loss": 2.0}]
    assert curves.points(lines, "eval/loss", 7) == {1: 2.0}
    assert curves.points(lines, "train/loss", 7) == {1: 3.0}


def test_names_that_are_alike_are_told_apart(tmp_path):
    sparse = write(tmp_path / "run", [0.9, 0.91])
    dense = write(tmp_path / "run", [0.9, 0.91], DENSE, first_seed=2)
    names = [row["run"] for row in side_by_side.rows(compare.networks([*sparse, *dense]))]
    assert names == [f"{sparse[0]}, ...", f"{dense[0]}, ..."]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "needs the directory of a run"),
        (["RUNS", "--html"], "--html is for one run, not for 2"),
        (["RUNS", "--output=x.txt"], "must end with .png, .pdf or .svg"),
        (["RUN", "--output=x.png"], "--output is for several runs"),
    ],
)
def test_mistakes_are_one_line(words, message, singles, capsys):
    given = {"RUN": singles[:1], "RUNS": singles}
    arguments = [each for word in words for each in given.get(word, [word])]
    assert main(["report", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
