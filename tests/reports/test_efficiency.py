"""Points of tables of runs, what they are joined to, and the command."""

import csv
import math

import numpy as np
import pytest

from aggnets_jax.main import main
from aggnets_jax.reports import efficiency
from aggnets_jax.reports.efficiency import Point, draw, measured_points
from aggnets_jax.reports.experiments import list_experiments

COLUMNS = ("config", "overrides", "network", "params", "macs", "data", "seed", "error")
SPARSENET = ("configs/digits_50k.py:sparsenet", "", "sparsenet_bc34_k8", 47242, 1293552)
DENSE = ("configs/digits_50k.py:sparsenet", "--config.model.topology=dense", *SPARSENET[2:])
FEW = ("configs/digits_50k.py:sparsenet_10", *SPARSENET[1:])


def write(file, *runs):
    """A table of runs, each given as its network, seed and error."""
    with file.open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(COLUMNS)
        writer.writerows((*network, "aggnets_digits", seed, error) for network, seed, error in runs)


def test_a_config_is_a_point_over_the_seeds_of_all_files(tmp_path):
    write(tmp_path / "a.csv", (SPARSENET, 0, 1.0), (SPARSENET, 1, 2.5), (DENSE, 0, 4.0))
    write(tmp_path / "b.csv", (SPARSENET, 2, 1.0), (DENSE, 0, 4.0), (FEW, 0, 9.0))
    (tmp_path / "c.csv").write_text("speed\n12\n")
    sparse, dense, few = measured_points(tmp_path)
    assert (sparse.seeds, dense.seeds, few.seeds) == (3, 1, 1)
    assert sparse.error == 1.5
    # The t distribution with two degrees of freedom.
    assert np.isclose(sparse.half, 4.302652729911275 * np.std([1, 2.5, 1], ddof=1) / np.sqrt(3))
    assert math.isnan(dense.half) and dense.error == 4
    assert sparse[4:6] == (47242, 1293552)


def test_lines_are_families_and_patterns_and_sets_are_apart(tmp_path):
    write(tmp_path / "a.csv", (SPARSENET, 0, 1.0), (DENSE, 0, 4.0), (FEW, 0, 9.0))
    assert [(point.data, point.line) for point in measured_points(tmp_path)] == [
        ("aggnets_digits", "sparsenet_bc"),
        ("aggnets_digits", "sparsenet_bc, dense"),
        ("aggnets_digits, train_10_per_class", "sparsenet_bc"),
    ]


def test_only_configs_of_the_package_are_run(tmp_path):
    """The others' networks are lines of their own."""
    strange = tmp_path / "strange.py"
    strange.write_text("raise SystemExit('it was run')")
    gone, later = "configs/digits_50k.py:gone", "--config.model.name=later"
    write(
        tmp_path / "a.csv",
        ((str(strange), *SPARSENET[1:]), 0, 1.0),
        ((gone, *SPARSENET[1:]), 0, 2.0),
        ((SPARSENET[0], "--config.lr='0.1", *SPARSENET[2:]), 0, 2.5),
        ((SPARSENET[0], f"{later} # after step 3: lr: 0.1 -> 0.2", *SPARSENET[2:]), 0, 3.0),
    )
    points = measured_points(tmp_path)
    assert [point.error for point in points] == [1, 2, 2.5, 3]
    assert {point.line for point in points} == {"sparsenet_bc34_k8"}


def test_printed_errors_stand_at_the_sizes_of_the_networks_here(monkeypatch):
    everything = list_experiments("sparsenet")  # counting all of them takes long
    some = [each for each in everything if "sparsenet_bc100_k24_c" in each.name]
    some.append(some[0]._replace(config=some[0].config.copy_and_resolve_references()))
    some[-1].config.paper.error = None
    monkeypatch.setattr(efficiency, "list_experiments", {"sparsenet": some}.get)
    points = list(efficiency.printed_points("sparsenet"))
    assert [(p.data, p.line, p.params, p.error, p.seeds) for p in points] == [
        ("cifar10", "sparsenet_bc", 1450234, 4.03, 0),
        ("cifar100", "sparsenet_bc", 1461124, 22.12, 0),
    ]


def point(**changes):
    fields = {"data": "set", "line": "a", "network": "n", "config": "c", "seeds": 2}
    return Point(**{**fields, "params": 10, "macs": 100, "error": 5.0, "half": 1.0, **changes})


def test_points_of_a_line_are_joined_in_the_order_of_their_cost():
    points = [
        point(params=30, macs=100, error=3.0),
        point(params=10, macs=300),
        point(line="b", half=math.nan, seeds=1),
        point(params=20, error=4.0, half=math.nan, seeds=0),
        point(data="another set"),
    ]
    figure = draw(points)
    by_params, by_macs = figure.axes[:2]
    assert len(figure.axes) == 4 and by_params.get_xscale() == by_macs.get_xscale() == "log"
    drawn = {
        tuple(map(float, bars[0].get_xdata())): bars[0].get_linestyle()
        for bars in by_params.containers
    }
    assert drawn == {(10.0, 30.0): "-", (20.0,): "--", (10.0,): "-"}
    first = by_macs.containers[0][0]
    assert first.get_xdata().tolist() == [100, 300] and first.get_ydata().tolist() == [3, 5]
    hollow = [bars[0].get_markerfacecolor() == "none" for bars in by_params.containers]
    assert hollow == [False, True, False]
    legend = [text.get_text() for text in by_macs.get_legend().get_texts()]
    assert legend == ["a", "a (printed)", "b"]


def test_the_command_writes_numbers_and_a_picture(tmp_path, capsys):
    write(tmp_path / "a.csv", (SPARSENET, 0, 1.0), (SPARSENET, 1, 2.0), (DENSE, 0, 4.0))
    output = tmp_path / "out" / "below"
    assert main(["analyse", "efficiency", f"--results={tmp_path}", f"--output={output}"]) == 0
    with (output / "efficiency.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["line"], row["error"], row["seeds"]) for row in rows] == [
        ("sparsenet_bc", "1.5", "2"),
        ("sparsenet_bc, dense", "4.0", "1"),
    ]
    assert float(rows[0]["high"]) > 1.5 > float(rows[0]["low"]) and rows[1]["low"] == ""
    assert (output / "efficiency.png").stat().st_size > 10_000
    assert "47,242" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "no tables of runs in FOLDER, and no --printed=FAMILY with errors"),
        (["--printed=sparsnet"], "unknown family 'sparsnet'; nearest: sparsenet"),
        (["--results=FOLDER/none"], "results FOLDER/none is no folder"),
        (["--results=FOLDER/text"], "a.csv can't be read: could not convert string to float"),
        (["--results=FOLDER/large"], "a.csv is damaged: sizes must be above 0, errors in 0..100"),
        (["--results=FOLDER/few"], "a.csv can't be read: 'params'"),
        (["--results=FOLDER/less"], "a.csv can't be read: 'network'"),
        (["--output=FOLDER/text/a.csv/below"], "can't be written"),
        (["--workdir=FOLDER"], "not for aggnets analyse efficiency"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, flags, message):
    for name, error in (("text", "low"), ("large", 101)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "a.csv", (SPARSENET, 0, error))
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "a.csv").write_text("config,overrides,seed,error\nc,,0,1\n")
    (tmp_path / "less").mkdir()
    text = "config,overrides,params,macs,seed,error\nc,,5,5,0,1\n"
    (tmp_path / "less" / "a.csv").write_text(text)
    flags = [f"--results={tmp_path}", f"--output={tmp_path}", *flags]
    flags = [flag.replace("FOLDER", str(tmp_path)) for flag in flags]
    assert main(["analyse", "efficiency", *flags]) == 2
    captured = capsys.readouterr()
    assert message.replace("FOLDER", str(tmp_path)) in captured.err
    assert captured.err.count("\n") == 1 and captured.out == ""
    assert sorted(file.name for file in tmp_path.iterdir()) == ["few", "large", "less", "text"]
