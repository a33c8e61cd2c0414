"""`launch/slurm.sbatch`, in a real SLURM: who is started, stopped, and queued again."""

import os
import shutil
import subprocess
import sys

import pytest

from tests import runs
from tests.launch.slurm import CPUS

SCRIPT = "launch/slurm.sbatch"
# Instead of Python: says what it was started with, and does what $DO says.
STAND_IN = """#!{python}
import os, signal, sys, time
task, restarts = int(os.environ["SLURM_PROCID"]), int(os.environ.get("SLURM_RESTART_COUNT", 0))
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
ids = os.environ.get("JAX_LOCAL_DEVICE_IDS")
sys.stdout.write(f"task {{task}} start {{restarts}} devices {{ids}}: {{' '.join(sys.argv[1:])}}\\n")
sys.stdout.flush()


def stop_once():
    # Saving takes a moment, and for one longer than for the other.
    while not asked and not restarts:
        time.sleep(0.02)
    if restarts:
        sys.exit(0)
    time.sleep(1 + task)
    sys.stdout.write(f"task {{task}} signals {{len(asked)}}\\n")
    sys.exit(75)


exec(os.environ["DO"])
"""


def dry_run(*arguments, **env):
    """Exit code, stdout and stderr of a dry run outside of SLURM."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")} | {"PYTHON": "py"}
    done = subprocess.run(
        ["bash", SCRIPT, *arguments],
        cwd=runs.ROOT,
        env={**clean, **env},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


def test_shellcheck_finds_nothing():
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(
        ["shellcheck", SCRIPT], cwd=runs.ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout


def test_dry_run_prints_what_would_run():
    code, out, err = dry_run("--dry_run", "--config=a.py", "--workdir=b c")
    assert code == 0, err
    assert out.startswith("srun --ntasks=1 ")
    assert out.endswith(" py -m aggnets_jax train --config=a.py --workdir=b\\ c\n")


def test_dry_run_of_an_array_prints_each_row():
    arguments = ("--dry_run", "--config=a.py", "--workdir=runs/", "--rows", "x", "y")
    code, out, err = dry_run(*arguments)
    assert code == 0, err
    assert [line.split()[-2:] for line in out.splitlines()] == [
        ["--config=a.py:x", "--workdir=runs/x"],
        ["--config=a.py:y", "--workdir=runs/y"],
    ]


@pytest.mark.parametrize(
    ("job", "ids"),
    [
        ({"SLURM_NTASKS": "2", "SLURM_GPUS_ON_NODE": "4"}, "0\\,1\\,2\\,3"),  # one for each node
        ({"SLURM_NTASKS": "8", "SLURM_GPUS_ON_NODE": "4"}, None),  # JAX gives each its own
        ({"SLURM_NTASKS": "8", "SLURM_GPUS_PER_TASK": "a100:1"}, "0"),  # each sees its own alone
        ({"SLURM_NTASKS": "2"}, None),
    ],
)
def test_each_task_takes_its_gpus(job, ids):
    code, out, err = dry_run("--dry_run", "--workdir=a", SLURM_NNODES="2", **job)
    assert code == 0, err
    assert out.endswith(f" --expected_processes={job['SLURM_NTASKS']}\n")
    assert (f"JAX_LOCAL_DEVICE_IDS={ids} " in out) if ids else ("JAX_LOCAL" not in out)


@pytest.mark.parametrize(
    ("arguments", "array", "message"),
    [
        ("", None, "nothing to run"),
        ("--workdir=a", None, "this is no job of SLURM"),
        ("--dry_run --workdir=a --rows", None, "--rows is empty"),
        ("--dry_run --workdir=a --rows x", None, "--rows needs one --config=FILE"),
        ("--dry_run --workdir=a", "0", "an array needs --rows"),
        ("--dry_run --config=a --workdir=a --rows x", "1", "--rows has 1 rows, and no number 1"),
    ],
)
def test_mistakes_are_one_line(arguments, array, message):
    env = {} if array is None else {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": array}
    code, _, err = dry_run(*arguments.split(), **env)
    assert code == 2
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


STOPS, LOSES = "stop_once()", "sys.exit(0 if restarts else 76)"
ENDS_EARLY = "signal.signal(15, signal.SIG_DFL)\nif not restarts: os.kill(os.getpid(), 15)"
# The last task of an array has the number of the array.
LAST_STOPS = "stop_once() if os.environ['SLURM_ARRAY_TASK_ID'] == '1' else sys.exit(0)"


@pytest.fixture(scope="module")
def ended(slurm, tmp_path_factory):
    """By name, what SLURM says of jobs that have ended, and what they wrote.

    They run at the same time: SLURM waits for seconds before it starts a job again.
    """
    folder = tmp_path_factory.mktemp("jobs")
    stand_in = folder / "python"
    stand_in.write_text(STAND_IN.format(python=sys.executable))
    stand_in.chmod(0o755)
    jobs = {}
    for name, do in {
        "stopped": STOPS,
        "requeued": STOPS,
        "cancelled": STOPS,
        "lost": LOSES,
        "early": ENDS_EARLY,
        "wrong": "sys.exit(2)",
        "one_failed": "sys.exit(3 * task)",
    }.items():
        given = (f"--output={folder / name}", "--ntasks=2", SCRIPT, "--workdir=a b")
        jobs[name] = slurm.submit(*given, PYTHON=str(stand_in), DO=do)
    rows = ("--config=a.py", "--workdir=runs", "--rows", "x", "y")
    given = (f"--output={folder}/array_%a", "--array=0-1", "--ntasks=1", SCRIPT, *rows)
    array = slurm.submit(*given, PYTHON=str(stand_in), DO=LAST_STOPS)
    jobs |= {f"array_{task}": f"{array}_{task}" for task in (0, 1)}

    for name in ("stopped", "requeued", "cancelled"):
        slurm.wait_until_said(folder / name, "start 0", times=2)
    slurm.wait_until_said(folder / "array_1", "start 0")
    slurm.wait_for(jobs["array_0"], "COMPLETED")
    # As near the end of the time, and where preemption has a time of grace: to the tasks.
    slurm.run("scancel", "--signal=TERM", jobs["stopped"])
    slurm.run("scancel", "--signal=TERM", jobs["array_1"])
    # As preemption without it does: to tasks and script.
    slurm.run("scontrol", "requeue", jobs["requeued"])
    slurm.run("scancel", jobs["cancelled"])
    for name in ("stopped", "requeued", "array_1", "lost", "early"):
        slurm.wait_until_said(folder / name, "start 1")
    ends = {job: slurm.wait_for(jobs[job], "COMPLETED FAILED CANCELLED") for job in jobs}
    return {job: (end, (folder / job).read_text()) for job, end in ends.items()}


@pytest.mark.slow
def test_who_stops_with_75_is_queued_again(ended):
    job, log = ended["stopped"]
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1")
    lines = log.splitlines()
    for task in (0, 1):
        said = "devices None: -m aggnets_jax train --workdir=a b --expected_processes=2"
        assert f"task {task} start 0 {said}" in lines
        assert f"task {task} signals 1" in lines
        assert f"task {task} start 1 {said}" in lines
    assert f"job {job['JobId']} is queued again, after exit code 75" in lines


@pytest.mark.slow
def test_what_slurm_ends_it_starts_again_or_not(ended):
    for name, state, starts in (("requeued", "COMPLETED", 2), ("cancelled", "CANCELLED", 0)):
        job, log = ended[name]
        assert job["JobState"] == state
        assert log.count("signals 1") == 2  # each had time to save
        assert log.count("start 1") == starts
        assert "queued again" not in log


@pytest.mark.slow
def test_a_lost_process_is_tried_again_and_a_mistake_is_not(ended):
    ends = {name: ended[name][0] for name in ("lost", "early", "wrong", "one_failed")}
    assert {name: (end["ExitCode"], end["Restarts"]) for name, end in ends.items()} == {
        "lost": ("0:0", "1"),
        "early": ("0:0", "1"),
        "wrong": ("2:0", "0"),
        "one_failed": ("3:0", "0"),
    }


@pytest.mark.slow
def test_a_task_of_an_array_is_queued_again_alone(ended):
    (_, first), (job, second) = (ended[f"array_{task}"] for task in (0, 1))
    assert first.count("start") == 1
    assert "-m aggnets_jax train --config=a.py:x --workdir=runs/x\n" in first
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1")
    assert second.count("--config=a.py:y --workdir=runs/y\n") == 2


# What ends the training, and after how many steps it would end by itself: for the time to be over,
# SLURM looks twice a minute.
ENDS = {"requeue": 200, "preemption": 200, "time": 100_000}


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_two_tasks_train_are_stopped_and_go_on(end, slurm, data_dir, tmp_path):
    """On two simulated devices each."""
    total = ENDS[end]
    intervals = {"log_every_steps": 1, "eval_every_steps": 100, "checkpoint_every_steps": 50}
    config = runs.tiny_config(data_dir, total_steps=total, **intervals)
    file = runs.write_config(tmp_path / "tiny.py", config)
    log, workdir = tmp_path / "log", tmp_path / "run"
    options = [f"--output={log}", "--ntasks=2"]
    if end == "time":  # 300 s of which are left after a minute
        options.append("--time=6")
    flags = (f"--config={file}", f"--workdir={workdir}")
    cpus = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2", "PYTHON": sys.executable}
    job = slurm.submit(*options, SCRIPT, *flags, **cpus)

    slurm.wait_until_said(log, f" 1/{total}", timeout=240)
    if end == "requeue":
        slurm.run("scontrol", "requeue", job)
    elif end == "preemption":
        all_there_are = ("--partition=high", f"--ntasks={CPUS}")
        slurm.submit(*all_there_are, "--output=/dev/null", "--wrap=sleep 1")
    slurm.wait_until_said(log, "stopped after step", times=2, timeout=180)
    slurm.wait_until_said(log, "continuing after step", timeout=240)
    text = log.read_text()
    assert "2 processes of SLURM with 4 devices, 2 of them here" in text
    stopped = int(text.partition("stopped after step ")[2].split(";")[0])
    assert f"continuing after step {stopped} of {total}" in text
    assert ("queued again, after exit code 75" in text) == (end == "time")
    if end == "time":
        slurm.run("scancel", job)
        assert slurm.wait_for(job, "CANCELLED", timeout=120)["Restarts"] == "1"
    else:
        assert slurm.wait_for(job, "COMPLETED FAILED", timeout=240)["JobState"] == "COMPLETED"
        assert runs.summary(workdir)["steps"] == total
        trained = [line["step"] for line in runs.metric_lines(workdir) if "train/loss" in line]
        assert trained == list(range(1, total + 1))
