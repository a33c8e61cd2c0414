"""The commands of results/speed.py are commands of the benchmark."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from aggnets_jax import list_models
from aggnets_jax.benchmark import rows, run
from aggnets_jax.cli import exit_code
from aggnets_jax.commands import make_parser
from aggnets_jax.models.registry import find_family


@pytest.fixture(scope="module")
def speed():
    file = Path(__file__).parents[2] / "results" / "speed.py"
    spec = importlib.util.spec_from_file_location("speed", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_commands_are_ones_of_the_benchmark(speed):
    for commands in speed.TABLES.values():
        for command in commands():
            given = make_parser("benchmark").parse(command)
            run.check(given)
            assert command[0].startswith("--models=")
            assert all(map(find_family, given.models))
            assert given.against in (None, "torch", "tf.data", *list_models())


@pytest.fixture
def ran(speed, monkeypatch):
    """Return the commands that were run; each writes a row, but fails for 1001 layers."""
    commands = []

    def run(program):
        commands.append(program[4:-1])
        if any("1001" in flag for flag in commands[-1]):
            return SimpleNamespace(returncode=2)
        row = rows.Row("net", "train", "default", ms=float(len(commands)))
        file = program[-1].removeprefix("--json=")
        rows.write_json(file, [row], rows.origin("anything"))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(speed, "subprocess", SimpleNamespace(run=run))
    return commands


def test_rows_are_those_of_the_last_run_of_a_command(speed, ran, tmp_path):
    file = tmp_path / "speed.csv"
    arguments = ["--tables=inputs", f"--output={file}"]
    speed.main(arguments)
    speed.main([*arguments, "--models=resnet50"])
    speed.main([*arguments, "--missing"])
    assert len(ran) == 3
    lines = rows.read_records(file)
    assert [(line["table"], line["ms"]) for line in lines] == [("inputs", "1"), ("inputs", "3")]
    assert lines[1]["command"] == speed.command_line(ran[2])
    assert "--json" not in lines[1]["command"]


def test_flags_behind_the_dashes_are_for_all_commands(speed, ran, tmp_path):
    speed.main(["--tables=inputs", f"--output={tmp_path / 'speed.csv'}", "--", "--seconds=1"])
    assert [command[-1] for command in ran] == ["--seconds=1"] * 2


def test_commands_that_fail_leave_the_others_rows(speed, ran, tmp_path, capsys):
    file = tmp_path / "speed.csv"
    arguments = [
        "--tables=depth",
        f"--output={file}",
        "--models=sparsenet_sum200,sparsenet_sum1001",
    ]
    assert exit_code(lambda: speed.main(arguments)) == 2
    said = f"error: commands that failed: 1; the others' rows are in {file}"
    assert said in capsys.readouterr().err
    assert len(rows.read_records(file)) == 1


def test_unknown_tables_are_refused(speed, capsys):
    assert exit_code(lambda: speed.main(["--tables=cpu_famlies"])) == 2
    assert "unknown table 'cpu_famlies'; nearest: cpu_families" in capsys.readouterr().err
