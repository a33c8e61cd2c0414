"""Tables of results: what runs say, together."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from aggnets_jax import config as config_lib
from aggnets_jax.errors import UserError
from aggnets_jax.main import main
from aggnets_jax.reports import experiments, results
from aggnets_jax.reports.results import output_path
from aggnets_jax.train import train_and_evaluate
from tests import runs

SPARSENET = "configs/sparsenet/table2.py:sparsenet_bc100_k24_c100"


def metrics(accuracy):
    return {"step": 7, "accuracy": accuracy, "accuracy_top5": 1.0, "loss": 0.1, "examples": 360}


def at_seed(seed, accuracy):
    return {
        "seed": seed,
        "final": metrics(accuracy),
        "best": metrics(accuracy + 0.01),
        "fingerprint": f"{seed}f",
    }


def summary_of(config, seeds):
    accuracy = float(np.mean([each["final"]["accuracy"] for each in seeds]))
    return {
        "steps": 7,
        "final": metrics(accuracy),
        "best": metrics(accuracy + 0.01),
        "images_per_second": 1234.56,
        "network": {
            "name": config.model.name,
            "links": 3,
            "params": 1_461_124,
            "macs": 641_003_232,
        },
        "devices": "1 x cpu",
        "hardware": "1 x cpu; EPYC, 2 cores",
        "commit": "abc123+",
        "versions": {"python": "3.11.7", "jax": "0.10.2"},
        "fingerprint": "whole",
        "seeds": seeds,
    }


def write_run(workdir, accuracies, overrides=(), file=str(runs.ROOT / SPARSENET), change=dict):
    """The files that a finished run leaves for a table; seeds count from that of the config."""
    config = config_lib.load(file, [*overrides, f"num_seeds={len(accuracies)}"])
    seeds = [at_seed(config.seed + i, accuracy) for i, accuracy in enumerate(accuracies)]
    summary = summary_of(config, seeds)
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps(config_lib.to_json(config)))
    (workdir / "summary.json").write_text(json.dumps(change(summary)))
    return str(workdir)


def build(tmp_path, *workdirs):
    assert main(["results", *map(str, workdirs), f"--output={tmp_path}/out/table"]) == 0
    with (tmp_path / "out" / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file)), (tmp_path / "out" / "table.md").read_text()


def test_a_row_for_each_run_and_seed(tmp_path):
    rows, page = build(
        tmp_path,
        write_run(tmp_path / "a", [0.75, 0.77]),
        write_run(tmp_path / "b", [0.5], ["lr=0.2", "seed=4"]),
    )
    assert [(row["config"], row["overrides"], row["seed"], row["error"]) for row in rows] == [
        (SPARSENET, "", "0", "25.0"),
        (SPARSENET, "", "1", "23.0"),
        (SPARSENET, "--config.lr=0.2", "4", "50.0"),
    ]
    first = rows[0]
    assert (first["network"], first["params"], first["data"], first["steps"]) == (
        "sparsenet_bc100_k24",
        "1461124",
        "cifar100",
        "7",
    )
    assert (first["best_error"], first["paper_error"], first["seeds_at_once"]) == (
        "24.0",
        "22.12",
        "2",
    )
    assert (first["commit"], first["hardware"]) == ("abc123+", "1 x cpu; EPYC, 2 cores")
    assert first["versions"] == "python 3.11.7, jax 0.10.2"
    # Mean 24, deviation sqrt(2), and t = 12.706 with one degree of freedom.
    assert "| 2 | 24.00 | 1.41 | 11.29 to 36.71 | 22.12 (SparseNet, Table 2) |" in page
    assert "| 1 | 50.00 |  |  | 22.12 (SparseNet, Table 2) |" in page
    run = "    aggnets train --config=" + SPARSENET
    assert f"{run} --config.num_seeds=2 --workdir={tmp_path}/a\n" in page
    assert f"{run} --config.lr=0.2 --config.seed=4 --workdir={tmp_path}/b\n" in page
    assert "* commit: abc123+\n" in page


def with_precisions(*names):
    """Return a change of a summary to that of a detector: AP 0.5 at the first seed, then 0.6."""

    def change(summary):
        for number, each in enumerate([summary, *summary["seeds"]]):
            value = 0.5 if number < 2 else 0.6
            each["final"] = each["best"] = {"step": 7, **dict.fromkeys(names, value)}
        return summary

    return change


def test_detectors_have_ap_of_boxes_and_masks(tmp_path):
    boxes = ("bbox_AP", "bbox_AP50", "bbox_AP75")
    masks = (*boxes, "segm_AP", "segm_AP50", "segm_AP75")
    both = write_run(tmp_path / "a", [0.1, 0.1], change=with_precisions(*masks))
    rows, page = build(
        tmp_path, both, write_run(tmp_path / "b", [0.1], ["lr=1"], change=with_precisions(*boxes))
    )
    assert [(row["bbox_AP"], row["segm_AP75"]) for row in rows] == [
        ("50.0", "50.0"),
        ("60.0", "60.0"),
        ("50.0", ""),
    ]
    assert "AP is COCO's average precision in percent" in page
    interval = "55.00 | 7.07 | -8.53 to 118.53"
    assert f"| 2 | {interval} | {interval} |" in page
    assert "| 1 | 50.00 |  |  |  |  |  |" in page
    with pytest.raises(UserError, match="detectors and of classifiers have no table in common"):
        results.groups([*results.read_run(both), *results.read_run(write_run(tmp_path / "c", [1]))])


def test_a_run_whose_config_changed_on_the_way_says_so(tmp_path):
    changes = [{"step": 5, "changes": ["lr: 0.1 -> 0.2"]}]
    workdir = write_run(tmp_path / "a", [0.75], change=lambda s: {**s, "config_changes": changes})
    rows, page = build(tmp_path, workdir)
    assert rows[0]["overrides"] == "# after step 5: lr: 0.1 -> 0.2"
    assert f"--workdir={tmp_path}/a # after step 5: lr: 0.1 -> 0.2\n" in page


def test_runs_that_differ_in_the_seed_alone_are_a_group(tmp_path):
    workdirs = [
        write_run(tmp_path / "0", [0.7], ["data.data_dir=/here"]),
        write_run(tmp_path / "other", [0.2], ["model.args.dropout=0.1"]),
        write_run(tmp_path / "1", [0.8], ["seed=1", "data.data_dir=/there"]),
        write_run(tmp_path / "2", [0.9, 0.6], ["seed=2", "keep_checkpoints=5"]),
    ]
    grouped = results.groups(each for workdir in workdirs for each in results.read_run(workdir))
    seeds = [[result.record["seed"] for result in group] for group in grouped]
    assert seeds == [[0, 1, 2, 3], [0]]
    again = results.read_run(write_run(tmp_path / "again", [0.9], ["seed=3"]))
    with pytest.raises(UserError, match=r"workdirs \S+/2 and \S+/again .* seed 3"):
        results.groups([*grouped[0], *again])


def with_links(workdir, sources):
    """Give the config of a run the links that a pattern of its user made."""
    file = Path(workdir, "config.json")
    config = json.loads(file.read_text())
    row = {"depth": len(sources), "arguments": {}, "sources": sources}
    config["model"]["patterns"] = {"mine": [row]}
    file.write_text(json.dumps(config))
    return workdir


def test_other_links_by_a_pattern_of_the_same_name_are_another_network(tmp_path):
    plain, dense = [[0], [1]], [[0], [0, 1]]
    rows, page = build(
        tmp_path,
        with_links(write_run(tmp_path / "a", [0.75], ["seed=0"]), plain),
        with_links(write_run(tmp_path / "b", [0.5], ["seed=1"]), dense),
        with_links(write_run(tmp_path / "c", [0.25], ["seed=2"]), dense),
    )
    assert rows[0]["overrides"] != rows[1]["overrides"] == rows[2]["overrides"]
    assert rows[0]["overrides"].startswith("# mine of ")
    assert "| 1 | 25.00 |  |  |" in page and "| 2 | 62.50 | 17.68 |" in page


def test_another_folder_that_is_a_data_set_is_another_data_set(tmp_path):
    def folder(name):
        return ["data.name=npz", f"data.data_dir={tmp_path / name}"]

    rows, page = build(
        tmp_path,
        write_run(tmp_path / "a", [0.75], [*folder("a.npz"), "seed=0"]),
        write_run(tmp_path / "b", [0.5], [*folder("b.npz"), "seed=1"]),
        # Where TFDS keeps its sets makes no difference.
        write_run(tmp_path / "c", [0.75], ["data.data_dir=here", "seed=0"]),
        write_run(tmp_path / "d", [0.5], ["data.data_dir=there", "seed=1"]),
    )
    assert f"--config.data.data_dir={tmp_path}/a.npz" in rows[0]["overrides"]
    assert f"--config.data.data_dir={tmp_path}/b.npz --config.data.name=npz" in page
    assert page.count("| 1 | ") == 2 and page.count("| 2 | ") == 1


def test_the_list_of_experiments_finds_them(tmp_path):
    build(
        tmp_path,
        write_run(tmp_path / "a", [0.75, 0.77]),
        write_run(tmp_path / "b", [0.5], ["lr=0.2", "seed=4"]),
    )
    assert experiments.measured_errors(tmp_path / "out") == {SPARSENET: [25.0, 23.0]}


def test_the_interval_holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    samples = rng.normal(5.0, 2.0, (4000, 4))
    found = [results.mean_and_interval(sample) for sample in samples.tolist()]
    inside = np.mean([abs(mean - 5.0) <= half for mean, _, half in found])
    assert abs(inside - 0.95) < 0.015
    mean, deviation, half = found[0]
    interval = stats.t.interval(0.95, 3, np.mean(samples[0]), stats.sem(samples[0]))
    np.testing.assert_allclose([mean - half, mean + half], interval)
    assert deviation == pytest.approx(np.std(samples[0], ddof=1))
    assert results.mean_and_interval([3.0, 3.0]) == (3.0, 0.0, 0.0)
    mean, *widths = results.mean_and_interval([3.0])
    assert mean == 3.0
    assert all(map(math.isnan, widths))


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["total_steps=5"],
        ["total_epochs=2.5", "nesterov=False", "dtype=bfloat16"],
        ["model.topology=windowed", "model.topology_args.window=3", "model.args.dropout=0.25"],
        ["schedule=step", "schedule_args={'boundaries': (0.25, 0.5)}", "data.std=(1, 1, 1)"],
        ["lr_factors=(('stem.*', 0.0), ('classifier/.*', 10.0))", "model.aggregation=None"],
        ["model.args={}", "model.name=densenet40_k12", "data.name=cifar10", "profile_steps=(1, 2)"],
    ],
)
@pytest.mark.parametrize("name", [SPARSENET, "configs/recipes/micro_dense_imagenet.py"])
def test_overrides_make_the_same_config_again(name, overrides):
    config = config_lib.load(str(runs.ROOT / name), [*overrides, "seed=3", "num_seeds=2"])
    file, flags, seeds = results.config_and_overrides(config)
    assert file == name
    assert seeds == ["--config.num_seeds=2", "--config.seed=3"]
    flags = [flag.removeprefix("--config.") for flag in [*flags, *seeds]]
    again = config_lib.load(str(runs.ROOT / file), flags)
    assert config_lib.differences(config_lib.to_json(config), config_lib.to_json(again)) == []


def test_a_config_whose_file_is_not_ours_differs_from_the_default(tmp_path):
    file = runs.write_config(tmp_path / "mine.py", {"lr": 0.3, "model": {"name": "densenet40_k12"}})
    name, flags, _ = results.config_and_overrides(config_lib.load(str(file)))
    assert name == "configs/default.py"
    assert flags == ["--config.lr=0.3", "--config.model.name=densenet40_k12"]


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    config = runs.tiny_config(data_dir, total_steps=2, seed=5)
    return workdir, train_and_evaluate(config, workdir)


@pytest.mark.slow
def test_real_runs_can_be_read(trained, tmp_path):
    workdir, summary = trained
    rows, page = build(tmp_path, workdir)
    assert [row["seed"] for row in rows] == ["5"]
    for row, each in zip(rows, summary["seeds"], strict=True):
        assert float(row["error"]) == pytest.approx(100 * (1 - each["final"]["accuracy"]), abs=1e-4)
        assert row["fingerprint"] == each["fingerprint"]
        assert row["config"] == "configs/default.py"
        assert row["hardware"] == summary["hardware"]
    assert f" --config.seed=5 --workdir={workdir}\n" in page


def test_runs_of_before_there_were_several_seeds_have_one(tmp_path):
    def without_seeds(summary):
        return {k: v for k, v in summary.items() if k not in ("seeds", "commit", "hardware")}

    rows, page = build(tmp_path, write_run(tmp_path / "old", [0.9], change=without_seeds))
    (row,) = rows
    assert (row["error"], row["seed"], row["fingerprint"]) == ("10.0", "0", "whole")
    assert (row["commit"], row["hardware"]) == ("", "1 x cpu")
    assert "* commit: unknown\n" in page


def test_what_was_there_is_replaced_or_stays(tmp_path, capsys):
    first, second = write_run(tmp_path / "a", [0.75]), write_run(tmp_path / "b", [0.5])
    build(tmp_path, first)
    before = [(f.name, f.read_text()) for f in sorted((tmp_path / "out").iterdir())]
    assert main(["results", second, str(tmp_path), f"--output={tmp_path}/out/table"]) == 2
    assert [(f.name, f.read_text()) for f in sorted((tmp_path / "out").iterdir())] == before
    rows, page = build(tmp_path, second)
    assert [row["error"] for row in rows] == ["50.0"]
    assert "25.00" not in page
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "W does not exist"),
        ({}, "W holds no run"),
        ({"config.json": "{}"}, "W holds a run that is not finished"),
        ({"config.json": '{"lrr": 1}', "summary.json": "{}"}, "W: unknown config field 'lrr'"),
        ({"config.json": "{", "summary.json": "{}"}, "W/config.json is damaged"),
        ({"config.json": "{}", "summary.json": "[]"}, "W/summary.json is damaged"),
        ({"config.json": "{}", "summary.json": '{"steps": 1}'}, "W/summary.json is damaged"),
    ],
)
def test_workdirs_that_hold_no_finished_run_are_named(files, message, tmp_path, capsys):
    workdir = tmp_path / "run"
    for name, text in (files or {}).items():
        workdir.mkdir(exist_ok=True)
        (workdir / name).write_text(text)
    if files == {}:
        workdir.mkdir()
    assert main(["results", str(workdir), f"--output={tmp_path}/table"]) == 2
    error = capsys.readouterr().err
    assert message.replace("W", str(workdir)) in error
    assert error.count("\n") == 1
    assert not (tmp_path / "table.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required"),
        (["--output=results/a"], "the following arguments are required: WORKDIR"),
        (["RUN", "--output=results/a.csv"], "give it without .csv"),
        (["RUN", "--output=RUN/summary.json/table"], "can't be written"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, capsys):
    workdir = write_run(tmp_path / "run", [0.5])
    assert main(["results", *(argument.replace("RUN", workdir) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_folder_is_no_name_of_tables(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}/ names a folder: give it with a name"):
        output_path(f"{tmp_path}/")
