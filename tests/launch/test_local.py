"""`launch/local.py`: the other processes after a failure, and all of them after a signal."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from aggnets_jax.cli import exit_code
from aggnets_jax.runtime.processes import Child, common_exit_code, describe_exit
from launch import local
from tests import runs

LOCAL = [sys.executable, "launch/local.py"]
# Reports that it is ready; notes a signal as a run does, and takes a moment to stop. Each line is
# one write, even with PYTHONUNBUFFERED, so that lines of two processes don't mix.
TRAINS = """
import signal, sys, time
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
signal.signal(signal.SIGINT, lambda *_: asked.append(1))
sys.stdout.write("ready\\n")
sys.stdout.flush()
while not asked:
    time.sleep(0.01)
time.sleep(0.2)
sys.stderr.write(f"signals: {len(asked)}\\n")
sys.exit(75)
"""
HANGS = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(100)
"""
FAILS = "import sys, time; time.sleep({}); print('half a line', end=''); sys.exit({})"


def stand_ins(*programs):
    return [
        Child(f"process {i}", [sys.executable, "-c", program], {}, f"process {i}" if i else "")
        for i, program in enumerate(programs)
    ]


def launch(*programs, ending=local.ENDING):
    """Start the launcher with programs in the place of the training."""
    script = """
import json, signal, sys
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)  # a background job inherits SIGINT as ignored
from aggnets_jax.runtime.processes import Child
from launch import local
children, ending = json.loads(sys.argv[1])
sys.exit(local.run([Child(*child) for child in children], ending))
"""
    return subprocess.Popen(
        [sys.executable, "-c", script, json.dumps([stand_ins(*programs), ending])],
        cwd=runs.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_the_first_failure_is_told_and_the_others_are_ended(capfd):
    began = time.monotonic()
    children = stand_ins(HANGS, TRAINS, FAILS.format(0.3, 3))
    assert local.run(children, ((0.3, signal.SIGTERM), (1.0, signal.SIGKILL))) == 3
    assert time.monotonic() - began < 10
    out, err = capfd.readouterr()
    assert "error: process 2 ended with exit code 3; the others have 1 s to end\n" in err
    assert err.count("error") == 1
    assert "process 2: half a line\n" in out


def test_a_killed_process_is_told_with_its_signal(capfd):
    kills_itself = "import os; os.kill(os.getpid(), 9)"
    children = stand_ins(FAILS.format(0.5, 76), kills_itself)
    assert local.run(children) == 137
    out, err = capfd.readouterr()
    assert err == "error: process 1 was ended by SIGKILL; the others have 20 s to end\n"
    assert out == "half a line"  # the first process prints itself


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_launcher_reaches_each_process_once(number):
    process = launch(TRAINS, TRAINS)
    lines = sorted(process.stdout.readline() for _ in range(2))
    assert lines == ["process 1: ready\n", "ready\n"]
    # As a terminal does: to the whole group.
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert sorted(err.splitlines()) == ["process 1: signals: 1", "signals: 1"]


def test_who_is_stopped_before_it_can_notice_is_stopped_all_the_same():
    process = launch("import time; print('ready', flush=True); time.sleep(100)")
    process.stdout.readline()
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (75, "")


@pytest.mark.slow
def test_who_was_asked_to_stop_gets_no_second_signal_when_another_fails():
    slow = TRAINS.replace("time.sleep(0.2)", "time.sleep(1.5)")
    fails = TRAINS.replace("sys.exit(75)", "sys.exit(74)")
    process = launch(slow, fails, ending=((0.2, 15), (30.0, 9)))
    for _ in range(2):
        process.stdout.readline()
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 74
    assert "\nsignals: 1\n" in err


@pytest.mark.parametrize(
    ("codes", "code"),
    [([0, 0], 0), ([75, 75], 75), ([75, 0], 75), ([0, 3, 76], 3), ([75, 137], 137), ([], 0)],
)
def test_the_exit_code_for_all(codes, code):
    assert common_exit_code(codes) == code


def test_ends_are_told_by_name():
    assert describe_exit(139) == "was ended by SIGSEGV"
    assert describe_exit(76) == "ended with exit code 76"
    assert describe_exit(255) == "ended with exit code 255"


def test_dry_run_prints_the_commands():
    flags = ("--processes=2", "--devices=3", "--dry_run")
    more = ("--", "--config=configs/digits.py", "--workdir=a b")
    done = subprocess.run([*LOCAL, *flags, *more], cwd=runs.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for number, line in enumerate(lines):
        assert line.startswith("JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=3 ")
        assert "-m aggnets_jax train --config=configs/digits.py '--workdir=a b'" in line
        assert line.endswith(f"--num_processes=2 --process_id={number}")


def test_another_subcommand_than_train(capsys):
    local.main(["--processes=1", "--dry_run", "--", "eval", "--workdir=a"])
    assert "-m aggnets_jax eval --workdir=a --coordinator_address=" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--processes=0 -- --workdir=a", "--processes must be at least 1, got 0"),
        ("--processes=2 --devices=0 -- --workdir=a", "--devices must be at least 1, got 0"),
        ("--processes=2", "nothing to run: give flags of aggnets train after --"),
        ("--processes=2 -- --process_id=1", "--process_id is given to each process here; leave it"),
        ("-- --workdir=a", "the following arguments are required: --processes"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert exit_code(lambda: local.main(arguments.split())) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


@pytest.mark.slow
def test_two_processes_train_stop_and_go_on(data_dir, tmp_path):
    config = runs.tiny_config(data_dir, total_steps=100_000, log_every_steps=1)
    file = runs.write_config(tmp_path / "tiny.py", config)
    workdir = tmp_path / "run"
    command = [*LOCAL, "--processes=2", "--devices=2", "--"]
    more = [f"--config={file}", f"--workdir={workdir}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*command, *more], cwd=runs.ROOT, **pipes)
    while process.poll() is None and not (workdir / "checkpoints" / "5").exists():
        time.sleep(0.05)
    process.terminate()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert "4 cpu device(s) in 2 processes" in out
    first, second = sorted(line for line in err.splitlines() if "stopped after step" in line)
    assert f"process 1: {first}" == second or f"process 1: {second}" == first
    stopped = int(first.partition("after step ")[2].split(";")[0])

    more += [f"--config.total_steps={stopped + 2}", "--allow_config_change"]
    done = subprocess.run([*command, *more], cwd=runs.ROOT, timeout=240, **pipes)
    assert done.returncode == 0, done.stderr
    assert f"continuing after step {stopped} of {stopped + 2}" in done.stdout
    assert runs.summary(workdir)["steps"] == stopped + 2


@pytest.mark.slow
def test_what_is_wrong_with_the_config_is_said_and_none_hangs(tmp_path):
    began = time.monotonic()
    more = ["--config=configs/digits.py", f"--workdir={tmp_path / 'run'}", "--config.batch_size=7"]
    command = [*LOCAL, "--processes=2", "--devices=2", "--", *more]
    done = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "batch_size" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - began < 60
