"""Several processes: how they find each other, what they compute, and what if one is gone."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from aggnets_jax.errors import LostProcess, UserError
from aggnets_jax.main import main
from aggnets_jax.runtime import distributed
from aggnets_jax.runtime.distributed import find_cluster, join
from tests import runs
from tests.runtime.test_preemption import start_processes

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}


@pytest.fixture
def initialized(monkeypatch):
    """Record the arguments of `jax.distributed.initialize`, outside of any cluster."""
    for name in {*SLURM, *OPEN_MPI, *KUBERNETES}:
        monkeypatch.delenv(name, raising=False)
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: calls.append((a, k)))
    monkeypatch.setattr(distributed, "_report_aborts", lambda: None)
    return calls


@pytest.mark.parametrize(
    ("variables", "cluster"),
    [
        ({}, None),
        (SLURM, "SLURM"),
        ({**SLURM, "SLURM_NTASKS": "1"}, None),
        # The script of a job, which is no task of it.
        ({name: SLURM[name] for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID")}, None),
        (OPEN_MPI, "Open MPI"),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "1"}, None),
        (KUBERNETES, "Kubernetes"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
    ],
)
def test_a_process_finds_what_started_it(variables, cluster, initialized, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert find_cluster() == cluster
    if cluster is None:
        join()
        assert initialized == []


@pytest.mark.parametrize(
    ("platforms", "cluster"), [("tpu,cpu", "Cloud TPU"), ("tpu", "Cloud TPU"), ("cpu", None)]
)
def test_a_tpu_vm_is_a_machine_with_chips(platforms, cluster, initialized, monkeypatch, tmp_path):
    Path(tmp_path, "libtpu.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(type(jax.config), "jax_platforms", platforms)
    assert find_cluster() == cluster


def test_libtpu_alone_is_no_cluster(tmp_path):
    """Who compiles for TPUs has libtpu, and trains on the same machine without chips."""
    Path(tmp_path, "libtpu.py").write_text("get_library_path = lambda: 'libtpu.so'")
    code = "from aggnets_jax.runtime.distributed import find_cluster; print(find_cluster())"
    variables = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=variables | {"PYTHONPATH": f"{tmp_path}:{os.getcwd()}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == ["None"], found.stderr


def test_the_cluster_says_what_flags_do_not(initialized, monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    join(timeout=50)
    ((arguments, more),) = initialized
    assert arguments == (None, None, None)
    assert more["cluster_detection_method"] is None
    assert more["initialization_timeout"] > 50
    join("here:1234", 1, 0)
    assert initialized[1][0] == ("here:1234", 1, 0)
    assert initialized[1][1]["cluster_detection_method"] == "deactivate"


def test_numbers_of_open_mpi(initialized, monkeypatch):
    for name, value in OPEN_MPI.items():
        monkeypatch.setenv(name, value)
    join("here:1234")
    assert initialized[0][0] == ("here:1234", 4, 3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"coordinator_address": "here"}, "must be HOST:PORT, got 'here'"),
        ({"coordinator_address": "here:1234"}, "go together"),
        ({"coordinator_address": "here:1", "num_processes": 0, "process_id": 0}, "at least 1"),
        ({"coordinator_address": "here:1", "num_processes": 2, "process_id": 2}, "from 0 to 1"),
        ({"process_id": -1}, "from 0, got -1"),
        ({"timeout": 0}, "--join_timeout must be at least 1"),
        ({"expected_processes": 2}, "there are 1: no cluster was found"),
    ],
)
def test_what_can_be_no_process_is_refused(arguments, said, initialized):
    with pytest.raises(UserError, match=said):
        join(**arguments)
    assert initialized == []


def test_other_modes_have_one_process(tmp_path, capsys):
    assert main(["report", f"--workdir={tmp_path}", "--expected_processes=2"]) == 2
    assert "--expected_processes is for aggnets train, aggnets eval" in capsys.readouterr().err


@pytest.mark.slow
def test_a_coordinator_that_does_not_answer_is_waited_for_as_long_as_said(tmp_path):
    file = runs.write_config(tmp_path / "tiny.py", runs.tiny_config(None))
    began = time.monotonic()
    process = runs.start(
        f"--config={file}",
        f"--workdir={tmp_path / 'run'}",
        "--coordinator_address=localhost:9",
        "--num_processes=2",
        "--process_id=1",
        "--join_timeout=3",
    )
    code, out, err = runs.finish(process)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == (
        "error: localhost:9 and the other processes did not all answer within 3 s"
    )
    assert time.monotonic() - began < 40
    assert not (tmp_path / "run").exists()


def test_a_cluster_whose_processes_do_not_come_may_be_tried_again(monkeypatch):
    ended = []
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed.os, "_exit", ended.append)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: time.sleep(1.5))
    monkeypatch.setattr(distributed, "_report_aborts", lambda: None)
    join(timeout=1)
    assert ended == [LostProcess.exit_code]


def finish_all(processes):
    ends = [runs.finish(process) for process in processes]
    assert [code for code, _, _ in ends] == [0] * len(ends), ends
    return ends


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["replicated", "fsdp"])
def test_two_processes_compute_what_one_does(sharding, data_dir, tmp_path):
    """Losses, evaluations, predictions and parameters; and as many images for each device."""
    config = runs.tiny_config(data_dir, sharding=sharding)
    file = runs.write_config(tmp_path / "tiny.py", config)
    two, one = tmp_path / "two", tmp_path / "one"
    ends = finish_all(start_processes(f"--config={file}", f"--workdir={two}"))
    assert "2 processes with 4 devices, 2 of them here" in ends[0][1]
    assert "step" not in ends[1][1]
    alone = ("--config.sharding=replicated", f"--workdir={one}")
    finish_all([runs.start(f"--config={file}", *alone, devices=4)])
    for line, expected in zip(runs.metric_lines(two), runs.metric_lines(one), strict=True):
        assert line == pytest.approx(expected, rel=1e-4)
    final, expected = (runs.summary(workdir)["final"] for workdir in (two, one))
    assert final["examples"] == expected["examples"] == 360
    assert final["accuracy"] == expected["accuracy"]
    sizes = [runs.summary(workdir)["state_bytes"] for workdir in (two, one)]
    assert sizes[0] == sizes[1] if sharding == "replicated" else sizes[0] < 0.5 * sizes[1]

    ends = finish_all(start_processes("eval", f"--workdir={two}"))
    assert json.loads((two / "evaluation.json").read_text()) == pytest.approx(final, rel=1e-6)
    assert "of 360 images" in ends[0][1]
    finish_all([runs.start("eval", f"--workdir={two}")])
    assert json.loads((two / "evaluation.json").read_text()) == pytest.approx(final, rel=1e-5)

    image = tmp_path / "image.png"
    save_image(image)
    predictions = []
    for name, start in (("two", start_processes), ("one", lambda *a: [runs.start(*a)])):
        output = tmp_path / f"{name}.json"
        flags = (f"--images={image}", "--format=json", f"--output={output}")
        finish_all(start("predict", f"--workdir={two}", *flags))
        predictions.append(json.loads(output.read_text())[0]["predictions"])
    for first, second in zip(*predictions, strict=True):
        assert first["class"] == second["class"]
        assert first["probability"] == pytest.approx(second["probability"], rel=1e-4)


def save_image(file):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(pixels).save(file)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_dies_ends_the_other(killed, data_dir, tmp_path):
    config = runs.tiny_config(data_dir, total_steps=100_000, log_every_steps=1)
    file = runs.write_config(tmp_path / "tiny.py", config)
    processes = start_processes(f"--config={file}", f"--workdir={tmp_path / 'run'}")
    while all(p.poll() is None for p in processes):
        if (tmp_path / "run" / "checkpoints" / "5").exists():
            break
        time.sleep(0.05)
    processes[killed].kill()
    began = time.monotonic()
    code, _, err = runs.finish(processes[1 - killed])
    assert code == LostProcess.exit_code
    assert err.splitlines()[-1].startswith("error: ")
    assert "lost" in err.splitlines()[-1]
    assert time.monotonic() - began < 150
    assert runs.finish(processes[killed])[0] == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("mpirun"), reason="Open MPI is not installed")
def test_open_mpi_starts_both_processes(data_dir, tmp_path):
    file = runs.write_config(tmp_path / "tiny.py", runs.tiny_config(data_dir))
    mpirun = ("mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2")
    flags = (f"--config={file}", f"--workdir={tmp_path / 'run'}", "--expected_processes=2")
    code, out, err = runs.finish(runs.start(*flags, devices=2, launcher=mpirun))
    assert code == 0, err
    assert "2 processes of Open MPI with 4 devices, 2 of them here" in out
    assert runs.summary(tmp_path / "run")["final"]["examples"] == 360


@pytest.mark.slow
def test_another_number_of_processes_than_expected_is_refused(data_dir, tmp_path):
    file = runs.write_config(tmp_path / "tiny.py", runs.tiny_config(data_dir))
    flags = (f"--config={file}", f"--workdir={tmp_path / 'run'}", "--expected_processes=3")
    for process in start_processes(*flags):
        code, _, err = runs.finish(process)
        assert code == 2
        assert err.splitlines()[-1] == "error: --expected_processes is 3, and there are 2"
    assert not (tmp_path / "run").exists()


LEAVES = """
import sys, time
from aggnets_jax.cli import exit_code
from aggnets_jax.errors import UserError
from aggnets_jax.runtime.distributed import (
    in_any_process, is_first, join, leave, report_lost_processes
)
join(sys.argv[1], 2, int(sys.argv[2]))
def in_one():
    with report_lost_processes():
        for step in range(1000):
            if step == 5 and not is_first():
                raise UserError("image 5 is damaged")
            in_any_process(False)
def in_all():
    if not is_first():
        time.sleep(1)
    raise UserError("no such field")
leave(exit_code({program}))
"""


def errors_of_both(program):
    """Return the codes with which two processes leave, and the last lines of their errors."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", LEAVES.format(program=program), address, str(number)],
            cwd=runs.ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    errors = [process.communicate(timeout=100)[1].splitlines()[-1] for process in processes]
    return [process.returncode for process in processes], errors


@pytest.mark.slow
def test_a_user_s_error_in_one_process_is_no_lost_process_to_the_other():
    """Launchers start a run again that has lost a process."""
    assert errors_of_both("in_one") == (
        [2, 2],
        ["error: another process has stopped, and says why", "error: image 5 is damaged"],
    )


@pytest.mark.slow
def test_the_first_process_does_not_abort_another_with_the_same_error():
    assert errors_of_both("in_all") == ([2, 2], ["error: no such field"] * 2)
