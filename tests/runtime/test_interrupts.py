"""Signals from the first moment of each command: one line, a documented exit code."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aggnets_jax import commands
from aggnets_jax.runtime import interrupts
from tests import runs
from tests.marks import mostly_slow

MOMENTS = 10  # for each subcommand

# What each subcommand does while it is interrupted.
WORK = {
    "train": "--config={file} --workdir={new}",
    "eval": "--workdir={run}",
    "predict": "--workdir={run} --images={folder}/image.png",
    "report": "--workdir={run} --html",
    "analyse": "weights --workdir={run}",
    "ablate": "--workdir={run}",
    "learn": "--config={file} --workdir={new} --penalty=l1 --strength=0.1",
    "compare": "{run} --against {run}",
    "results": "{run} --output={folder}/results",
    "experiments": "--family=dsnet",
    "convert": "--workdir={run} --to_torch={new}.safetensors",
    "export": "--workdir={run} --format=stablehlo --output={new}",
    "push": "hf://NOBODY/NOTHING --workdir={run}",
    "models": "sparsenet*",
    "dry-run": "--config={file} --devices=1",
    "benchmark": "--models=sparsenet10_k4 --seconds=0.1 --repeats=1",
    "prepare-data": "--name=aggnets_digits --data_dir={new}",
    "sweep": "--config={sweep} --workdir={new}",
    "completion": "bash",
}


@pytest.fixture(scope="module")
def places(tmp_path_factory, finished_run, data_dir):
    """Make the files that the command lines of `WORK` name."""
    folder = tmp_path_factory.mktemp("signals")
    shutil.copytree(finished_run, folder / "run")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "image.png")
    file = runs.write_config(folder / "tiny.py", runs.tiny_config(data_dir, total_steps=2000))
    sweep = folder / "rows.py"
    sweep.write_text(f"{file.read_text()}\n\ndef sweep():\n    yield 'row', {{}}\n")
    return {"folder": folder, "run": folder / "run", "file": file, "sweep": sweep}


def wait_until_heeded(process):
    """Wait until a process handles SIGTERM; before, it is Python that starts."""
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        if caught >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.002)


def interrupt(name, number, delay, places, new):
    """Return exit code, stdout and stderr of a subcommand that gets a signal after a delay."""
    words = WORK[name].format(new=new, **places).split()
    process = runs.start(name, *words)
    wait_until_heeded(process)
    time.sleep(delay)
    process.send_signal(number)
    return runs.finish(process)


def check(name, number, ended, new):
    code, _, err = ended
    # In the end a run compared with itself is refused, and there is no way to the Hub.
    assert code in (2 if name in ("compare", "push") else 0, 75, 128 + number), ended
    if code == 2:
        assert err.startswith("error: ") and err.count("\n") == 1, ended
    elif code:
        lines = err.splitlines()
        assert lines[-1].startswith(f"{number.name}: "), ended
        assert len(lines) <= (2 if name == "sweep" else 1), ended  # the run's line, and the sweep's
    else:
        assert err == "", ended
    if code == 128 + number and name in ("train", "learn"):
        assert not new.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", commands.NAMES)
def test_a_signal_at_the_first_moment_of_a_command(name, places, tmp_path):
    number = random.Random(name).choice([signal.SIGINT, signal.SIGTERM])
    ended = interrupt(name, number, 0.0, places, tmp_path / "new")
    assert ended[0] == 128 + number and ended[1:] == ("", f"{number.name}: stopped\n")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", commands.NAMES)
def test_signals_at_random_moments(name, places, tmp_path):
    draws = random.Random(name)
    for attempt in range(MOMENTS):
        number = draws.choice([signal.SIGINT, signal.SIGTERM])
        new = tmp_path / f"new{attempt}"
        check(name, number, interrupt(name, number, draws.uniform(0, 6), places, new), new)


@mostly_slow("delay", [0, 0.003, 0.01, 0.03], quick=(2,))
def test_a_signal_after_the_end_of_the_work_changes_nothing(delay, tmp_path):
    """Python resets handlers of signals while it ends."""
    process = runs.start("compare", f"{tmp_path}/a", "--against", f"{tmp_path}/b")
    said = process.stderr.readline()
    assert "does not exist" in said
    time.sleep(0.05 + delay)
    process.send_signal(signal.SIGINT)
    assert runs.finish(process) == (2, "", "")


def test_a_signal_ends_a_process_that_is_busy_outside_of_python():
    program = """
import ctypes, os
from aggnets_jax.runtime.interrupts import cleaning_up, end_at_signals
end_at_signals()
with cleaning_up(lambda: os.write(1, b"cleaned up\\n")):
    os.write(1, b"ready\\n")
    ctypes.CDLL(None).sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=runs.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert runs.finish(process, timeout=30) == (130, "cleaned up\n", "SIGINT: stopped\n")


def test_an_ignored_signal_stays_ignored():
    program = """
import os, signal
from aggnets_jax.runtime.interrupts import end_at_signals
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell starts a command in the background
end_at_signals()
os.kill(os.getpid(), signal.SIGINT)
print("goes on", flush=True)
os.kill(os.getpid(), signal.SIGTERM)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=runs.ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (143, "goes on\n", "SIGTERM: stopped\n")


def test_signals_are_ignored_only_where_they_would_end_the_process():
    before = [signal.getsignal(number) for number in interrupts.SIGNALS]
    interrupts.ignore_signals()
    assert [signal.getsignal(number) for number in interrupts.SIGNALS] == before
    program = """
import os, signal
from aggnets_jax.cli import exit_code
from aggnets_jax.errors import Stopped
from aggnets_jax.runtime.interrupts import end_at_signals
def stop():
    raise Stopped("SIGTERM: stopped after step 3")
end_at_signals()
code = exit_code(stop)
os.kill(os.getpid(), signal.SIGTERM)  # SLURM sends it twice
raise SystemExit(code)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=runs.ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (75, "SIGTERM: stopped after step 3\n")
