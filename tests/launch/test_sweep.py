"""`aggnets sweep`: which runs are started, how many at a time, and what becomes of the others."""

import json
import os
import shlex
import signal
import sys
import threading
import time

import pytest

from aggnets_jax import config as config_lib
from aggnets_jax.commands import sweep
from aggnets_jax.main import main
from tests import runs

# Instead of Python: a file for each start, in the folder of the workdirs, and what $DO says.
STAND_IN = """#!{python}
import os, pathlib, signal, sys, time
flags = dict(word.split("=", 1) for word in sys.argv[4:])
folder, row = os.path.split(flags["--workdir"])
started = pathlib.Path(folder, "started")
started.mkdir(exist_ok=True, parents=True)
(started / row).write_text(" ".join(sys.argv[1:]))
print("of", row, len(list(started.iterdir())), flush=True)


def stop():
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    (started / (row + "_waits")).touch()
    while not asked:
        time.sleep(0.02)
    sys.exit(75)


exec(os.environ.get("DO", ""))
"""


@pytest.fixture
def file(data_dir, tmp_path):
    """Write a config with three rows."""
    file = runs.write_config(tmp_path / "tiny.py", runs.tiny_config(data_dir, total_steps=2))
    rows = "def sweep():\n    for row in 'abc':\n        yield row, {'seed': ord(row)}\n"
    file.write_text(f"{file.read_text()}\n\n{rows}")
    return file


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def run(*arguments):
    """Run a sweep in this process, and return its exit code."""
    return main(["sweep", *map(str, arguments)])


def started(folder):
    return {file.name: file.read_text() for file in (folder / "started").iterdir()}


def finish(workdir, file, *overrides):
    """Make the workdir look like the one of a finished run."""
    workdir.mkdir(parents=True)
    config = config_lib.load(f"{file}:{workdir.name}", overrides)
    (workdir / "config.json").write_text(json.dumps(config_lib.to_json(config)))
    (workdir / "summary.json").write_text("{}")


def test_finished_runs_are_left_out_and_the_others_trained(file, stand_in, tmp_path, capfd):
    folder = tmp_path / "runs"
    finish(folder / "b", file, "lr=0.3")
    flags = (f"--config={file}", f"--workdir={folder}")
    assert run(*flags, "--", "--config.lr=0.3") == 0
    assert started(folder) == {
        row: f"-m aggnets_jax train --config={file}:{row} --workdir={folder}/{row} --config.lr=0.3"
        for row in "ac"
    }
    out = capfd.readouterr().out.splitlines()
    assert out[0] == "b: finished, left out"
    assert [line for line in out if line.startswith("of")] == ["of a 1", "of c 2"]


def test_runs_at_once_have_names_on_their_lines(file, stand_in, tmp_path, capfd, monkeypatch):
    # Each waits for all three.
    wait = "while len(list(started.iterdir())) < 3: time.sleep(0.02)\nprint('all', flush=True)"
    monkeypatch.setenv("DO", wait)
    assert run(f"--config={file}", f"--workdir={tmp_path / 'runs'}", "--at_once=3") == 0
    out = capfd.readouterr().out.splitlines()
    assert {"a: all", "b: all", "c: all"} <= set(out)


def test_a_failure_does_not_keep_the_others_from_training(
    file, stand_in, tmp_path, capfd, monkeypatch
):
    monkeypatch.setenv("DO", "sys.exit({'a': 3, 'b': 0, 'c': 2}[row])")
    assert run(f"--config={file}", f"--workdir={tmp_path / 'runs'}") == 3
    err = capfd.readouterr().err
    assert err == (
        "error: 2 of 3 runs failed: a ended with exit code 3, c ended with exit code 2\n"
    )


def test_a_signal_stops_the_runs_and_starts_no_more(file, stand_in, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("DO", "if row == 'b': stop()")
    folder = tmp_path / "runs"

    def stop():
        while not (folder / "started" / "b_waits").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    assert run(f"--config={file}", f"--workdir={folder}") == 75
    assert set(started(folder)) == {"a", "b", "b_waits"}
    err = capfd.readouterr().err
    assert err == "SIGTERM: 2 of 3 runs are not finished; the same command goes on with them\n"


def test_printed_commands(file, tmp_path, capsys):
    folder = tmp_path / "runs"
    finish(folder / "b", file)
    assert run(f"--config={file}", f"--workdir={folder}", "--print") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"aggnets train --config={file}:{row} --workdir={folder}/{row}" for row in "ac"
    ]


def test_dry_runs_start_nothing(file, tmp_path, capsys):
    folder = tmp_path / "runs"
    finish(folder / "b", file, "lr=0.3")
    flags = (f"--config={file}", f"--workdir={folder}", "--dry_run")
    changed = ("--", "--config.lr=0.3")
    assert run(*flags, *changed) == 0
    told, *commands = capsys.readouterr().out.splitlines()
    assert told == "b: finished, left out"
    assert [shlex.split(command)[3] for command in commands] == [
        f"--workdir={folder}/{row}" for row in "ac"
    ]

    options = "--time=2:00:00 --comment='a b'"
    assert run(*flags, f"--slurm={options}", "--at_once=4", *changed) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[1:] == [
        *("sbatch", "--time=2:00:00", "--comment=a b", "--array=0-1%4"),
        *(os.path.relpath(sweep.SCRIPT), f"--config={file}", f"--workdir={folder}"),
        *("--config.lr=0.3", "--rows", "a", "c"),
    ]
    assert {path.name for path in folder.iterdir()} == {"b"}


def test_all_finished(file, tmp_path, capsys):
    for row in "abc":
        finish(tmp_path / "runs" / row, file)
    assert run(f"--config={file}", f"--workdir={tmp_path / 'runs'}") == 0
    assert capsys.readouterr().out.count("finished, left out") == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--at_once=0", "--at_once must be at least 1, got 0"),
        ("--print --dry_run", "--print starts nothing: leave --dry_run out"),
        ("--print --slurm", "--print starts nothing: leave --slurm out"),
        ("--slurm=--comment='", "argument --slurm: --comment=': No closing quotation"),
        ("--print -- --config.lrr=1", "unknown config field 'lrr'; nearest: lr"),
        ("--print -- --watch", "--watch is for aggnets eval"),
        ("--print -- --workdir=other", "a sweep trains below its own --workdir"),
        ("--print -- --seeds=3", "unknown flag '--seeds'; allowed: --allow_config_change"),
    ],
)
def test_mistakes_are_one_line(arguments, message, file, tmp_path, capsys):
    assert run(f"--config={file}", f"--workdir={tmp_path / 'runs'}", *arguments.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_a_config_without_rows_and_rows_that_are_no_names(file, tmp_path, capsys):
    workdir = f"--workdir={tmp_path / 'runs'}"
    assert run("--config=configs/digits.py", workdir, "--print") == 2
    assert "configs/digits.py has no sweep()" in capsys.readouterr().err
    file.write_text(file.read_text().replace("yield row,", "yield f'../{row}',"))
    assert run(f"--config={file}", workdir, "--print") == 2
    assert "row '../a' can't be the name of a folder" in capsys.readouterr().err


def test_a_run_of_another_config_is_refused_before_anything_starts(file, tmp_path, capsys):
    folder = tmp_path / "runs"
    finish(folder / "b", file, "lr=0.3")
    flags = (f"--config={file}", f"--workdir={folder}", "--print")
    assert run(*flags) == 2
    assert "holds a run of another config (lr: 0.3 -> 0.05)" in capsys.readouterr().err
    assert run(*flags, "--", "--allow_config_change") == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_without_slurm_its_command_can_still_be_seen(file, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(f"--config={file}", f"--workdir={tmp_path / 'runs'}", "--slurm") == 2
    assert "there is no SLURM here (no sbatch); --dry_run prints" in capsys.readouterr().err


@pytest.mark.slow
def test_an_array_trains_each_row(file, stand_in, slurm, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", slurm.env["SLURM_CONF"])
    folder, log = tmp_path / "runs", f"{tmp_path}/%a"
    finish(folder / "b", file)
    options = f"--output={log} --parsable"
    assert run(f"--config={file}", f"--workdir={folder}", f"--slurm={options}") == 0
    job = capfd.readouterr().out.splitlines()[-1]
    for task in (0, 1):
        slurm.wait_for(f"{job}_{task}", "COMPLETED")
    assert started(folder) == {
        row: f"-m aggnets_jax train --config={file}:{row} --workdir={folder}/{row}" for row in "ac"
    }
    assert run(f"--config={file}", f"--workdir={folder}", "--slurm=--partition=none") == 2
    assert "error: sbatch has refused the jobs" in capfd.readouterr().err


@pytest.mark.slow
def test_a_sweep_trains_and_goes_on(file, tmp_path, capfd):
    flags = (f"--config={file}", f"--workdir={tmp_path / 'runs'}", "--at_once=2")
    assert run(*flags) == 0
    assert capfd.readouterr().out.count("finished, left out") == 0
    for row in "abc":
        assert runs.summary(tmp_path / "runs" / row)["steps"] == 2
    assert run(*flags) == 0
    assert capfd.readouterr().out.count("finished, left out") == 3
