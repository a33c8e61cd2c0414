"""Signals: one asks for a stop, the second one stops at once; several processes stop together."""

import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.runtime.preemption import StopRequest
from tests import runs


def test_a_signal_is_noted_and_the_handlers_are_put_back():
    mesh = mesh_lib.make_mesh()
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    for number in (signal.SIGTERM, signal.SIGINT):
        with StopRequest() as stop:
            assert stop.agreed(mesh) is None
            signal.raise_signal(number)
            assert stop.agreed(mesh) == number.name
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_nothing_listens_where_all_signals_are_ignored(monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN)
    threads, writer = threading.active_count(), signal.set_wakeup_fd(-1)
    with StopRequest() as stop:
        stop.listen()
        assert threading.active_count() == threads
        assert signal.set_wakeup_fd(writer) == -1


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        pytest.param("SIGTERM later SIGTERM", 143, marks=pytest.mark.slow),
        pytest.param("SIGTERM SIGINT", 130, marks=pytest.mark.slow),
        pytest.param("SIGINT SIGINT", 130, marks=pytest.mark.slow),
        ("SIGINT", 0),
    ],
)
def test_the_second_signal_ends_the_process_at_once(signals, code):
    program = f"""
import os, signal, time
from aggnets_jax.runtime import preemption
with preemption.StopRequest():
    for name in "{signals}".split():
        if name == "later":
            time.sleep(preemption.SAME + 0.5)
        else:
            os.kill(os.getpid(), signal.Signals[name])
    time.sleep({60 if " " in signals else 0})
"""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], cwd=runs.ROOT, timeout=60)
    assert done.returncode == code
    assert time.monotonic() - began < 30


def test_sigterm_that_slurm_sends_twice_is_one_request():
    program = """
import os, signal, time
from aggnets_jax.runtime.preemption import StopRequest
with StopRequest():
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
"""
    assert (
        subprocess.run([sys.executable, "-c", program], cwd=runs.ROOT, timeout=60).returncode == 0
    )


def start_processes(*arguments, processes=2, devices=2):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    cluster = (f"--coordinator_address=localhost:{port}", f"--num_processes={processes}")
    return [
        runs.start(*arguments, *cluster, f"--process_id={number}", devices=devices)
        for number in range(processes)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0, 1])
def test_processes_stop_at_the_same_step_and_one_goes_on_alone(asked, data_dir, tmp_path):
    """SIGTERM reaches one of two processes; what they saved together, one process takes up."""
    config = runs.tiny_config(data_dir, total_steps=100_000, log_every_steps=1)
    file = runs.write_config(tmp_path / "tiny.py", config)
    arguments = (f"--config={file}", f"--workdir={tmp_path / 'run'}")
    processes = start_processes(*arguments)
    while all(p.poll() is None for p in processes):
        if (tmp_path / "run" / "checkpoints" / "5").exists():
            break
        time.sleep(0.05)
    processes[asked].terminate()
    ends = [runs.finish(process) for process in processes]
    assert [code for code, _, _ in ends] == [75, 75], ends
    lines = {err.splitlines()[-1] for _, _, err in ends}
    assert len(lines) == 1
    stopped = int(lines.pop().split()[4].strip(";"))
    assert "4 cpu device(s) in 2 processes" in ends[0][1]
    assert "step" not in ends[1][1]  # the first alone prints
    assert (tmp_path / "run" / "checkpoints" / str(stopped)).is_dir()

    total = f"--config.total_steps={stopped + 3}"
    process = runs.start(*arguments, total, "--allow_config_change")
    code, out, err = runs.finish(process)
    assert code == 0, err
    assert f"continuing after step {stopped} of {stopped + 3}" in out
    process = runs.start(arguments[0], f"--workdir={tmp_path / 'alone'}", total)
    code, _, err = runs.finish(process)
    assert code == 0, err
    together, alone = (runs.metric_lines(tmp_path / name) for name in ("run", "alone"))
    assert len(together) == len(alone)
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    changes = runs.summary(tmp_path / "run")["config_changes"]
    assert changes == [
        {"step": stopped, "changes": [f"total_steps: 100000 -> {stopped + 3}"]},
    ]


@pytest.mark.slow
def test_processes_go_on_past_a_damaged_checkpoint_together(data_dir, tmp_path):
    file = runs.write_config(tmp_path / "tiny.py", runs.tiny_config(data_dir))
    arguments = (f"--config={file}", f"--workdir={tmp_path / 'run'}")
    for attempt in range(2):
        ends = [runs.finish(process) for process in start_processes(*arguments)]
        assert [code for code, _, _ in ends] == [0, 0], ends
        if attempt == 0:
            (tmp_path / "run" / "checkpoints" / "12" / "training" / "manifest.ocdbt").unlink()
    assert "continuing after step 10 of 12" in ends[0][1]
    assert [err.count("set aside as") for _, _, err in ends] == [1, 0]


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(4, 1), (1, 4)])
def test_a_run_goes_on_with_another_number_of_devices(before, after, data_dir, tmp_path):
    file = runs.write_config(tmp_path / "tiny.py", runs.tiny_config(data_dir))
    ends = ((before, ("--config.total_steps=5",)), (after, ("--allow_config_change",)))
    for devices, more in ends:
        process = runs.start(
            f"--config={file}", f"--workdir={tmp_path / 'run'}", *more, devices=devices
        )
        code, out, err = runs.finish(process)
        assert code == 0, err
        assert f"{devices} cpu device(s)" in out
    process = runs.start(f"--config={file}", f"--workdir={tmp_path / 'whole'}")
    code, _, err = runs.finish(process)
    assert code == 0, err
    # The one that was lengthened was evaluated, and logged, at what was its end.
    lines = [line for line in runs.metric_lines(tmp_path / "run") if line["step"] != 5]
    whole = runs.metric_lines(tmp_path / "whole")
    assert len(lines) == len(whole)
    for line, expected in zip(lines, whole, strict=True):
        if line["step"] != 6:  # of which the logged mean is that of one step, not of three
            assert line == pytest.approx(expected, rel=1e-5)
