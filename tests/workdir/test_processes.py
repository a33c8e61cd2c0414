"""Checkpoints of several processes that see different things at one moment."""

import socket
import subprocess
import sys

import pytest

from aggnets_jax.workdir.progress import Progress
from tests import runs
from tests.workdir.states import make_state, open_checkpoints

pytestmark = pytest.mark.slow

PROGRAM = """
import sys, time
import jax
import numpy as np
import orbax.checkpoint as ocp
from aggnets_jax.files import any_path
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.runtime.distributed import in_any_process, is_first, join
from aggnets_jax.workdir.checkpoints import Checkpoints
from aggnets_jax.workdir.progress import Progress
from aggnets_jax.workdir.restore import restore_network
from tests.workdir.states import make_state, open_checkpoints, restore

address, number, workdir = sys.argv[1], int(sys.argv[2]), any_path(sys.argv[3])
join(address, 2, number)
everywhere = mesh_lib.replicated(mesh_lib.make_mesh())
replicated = jax.jit(lambda tree: tree, out_shardings=everywhere)
state_of = lambda step: replicated(jax.tree.map(np.asarray, make_state(step)))
tell = lambda *words: print("found", *words, file=sys.stderr)
"""


def run_two(program, workdir):
    """Run a program in two processes; return what each tells, and its warnings."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = (sys.executable, "-c", PROGRAM + program, address)
    processes = [
        subprocess.Popen(
            [*command, str(number), str(workdir)], cwd=runs.ROOT, stderr=subprocess.PIPE, text=True
        )
        for number in range(2)
    ]
    try:
        errors = [process.communicate(timeout=100)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    prefixes = ("found ", "warning: ")
    return [[line for line in err.splitlines() if line.startswith(prefixes)] for err in errors]


# The second process sees an earlier list, as a network file system may show it.
EARLIER = """
if not is_first():
    Checkpoints._steps = lambda self, folder: [{step}]
"""


def test_all_resume_from_the_step_that_the_first_process_sees(copy):
    program = EARLIER.format(step=1) + "tell(restore(workdir, state=state_of(0))[0].updates)"
    assert run_two(program, copy) == [["found 2"], ["found 2"]]


def test_all_restore_the_network_that_the_first_process_sees(finished_run):
    program = EARLIER.format(step=10) + "tell(restore_network(workdir, 'latest', everywhere).step)"
    assert run_two(program, finished_run) == [["found 12"], ["found 12"]]


@pytest.mark.parametrize("items", ["'checksums'", "'model'"])
def test_a_checkpoint_that_one_process_finds_damaged_is_damaged_for_all(items, copy):
    program = f"""
if not is_first():
    read = ocp.CheckpointManager.restore
    def restore_some(self, step, args):
        if step == 2 and {items} in args.keys():
            raise ValueError("cut off")
        return read(self, step, args=args)
    ocp.CheckpointManager.restore = restore_some
tell(restore(workdir, state=state_of(0))[0].updates)
"""
    path = f"{copy}/checkpoints/2"
    told = f"checkpoint {path} is damaged: it can't be read: cut off"
    aside = copy / "damaged" / "checkpoints-2"
    assert run_two(program, copy) == [
        [f"warning: {told}; set aside as {aside}", "found 1"],
        ["found 1"],
    ]
    assert aside.is_dir()


def test_best_networks_that_the_first_process_has_deleted_are_dropped_by_all(tmp_path):
    """The second process is late to look."""
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save_best(make_state(2), Progress(best={"step": 2}))
        checkpoints.save(make_state(3), Progress(best={"step": 2}))
        for step in (4, 5):
            checkpoints.save_best(make_state(step), Progress())
        checkpoints.finish()
    assert not (tmp_path / "best" / "2").exists()
    program = """
steps_of = Checkpoints._steps
def late(self, folder):
    end = time.monotonic() + 20
    while folder == "best" and not is_first() and time.monotonic() < end:
        if not (workdir / "best" / "4").exists():
            break
        time.sleep(0.01)
    return steps_of(self, folder)
Checkpoints._steps = late
state, progress = restore(workdir, state=state_of(0))
tell(state.updates, progress.best, in_any_process(False))
"""
    assert run_two(program, tmp_path) == [["found 3 None False"], ["found 3 None False"]]
    assert not [path for path in (tmp_path / "best").iterdir() if path.name.isdecimal()]


@pytest.mark.parametrize("place", ["disk", "gs"])
def test_all_processes_save_and_go_on(place, tmp_path, request):
    workdir = tmp_path
    if place == "gs":
        proxy = request.getfixturevalue("gs_server")
        proxy.behave()
        workdir = f"{proxy.bucket}/two"
    program = """
for steps in ((1, 2), (3, 4)):
    with open_checkpoints(workdir) as checkpoints:
        for step in steps:
            checkpoints.save_best(state_of(step), Progress())
            checkpoints.save(state_of(step), Progress(evaluated=step))
        checkpoints.finish()
    tell(restore(workdir, state=state_of(0))[0].updates)
"""
    assert run_two(program, workdir) == [["found 2", "found 4"], ["found 2", "found 4"]]


def test_a_folder_that_the_first_process_can_not_make(tmp_path):
    program = """
import os
make, full = os.mkdir, is_first()
def mkdir(path, *arguments, **keywords):
    if full and "checkpoints" in str(path):
        raise OSError(28, "No space left on device", str(path))
    make(path, *arguments, **keywords)
os.mkdir = mkdir
with open_checkpoints(workdir) as checkpoints:
    checkpoints.save(state_of(1), Progress())
    full = False
    checkpoints.save(state_of(2), Progress())
    checkpoints.finish()
tell(restore(workdir, state=state_of(0))[0].updates)
"""
    told, folder = "warning: the state after step 1 could not be saved: ", tmp_path / "checkpoints"
    why = f"{folder} can't be written: [Errno 28] No space left on device: '{folder}'"
    assert run_two(program, tmp_path) == [
        [told + why, "found 2"],
        [told + "in another process, which says why", "found 2"],
    ]


@pytest.mark.parametrize("full", [0, 1])
def test_a_save_that_fails_in_one_process_fails_in_all_and_they_go_on(full, tmp_path):
    """Each process writes a half of an array, and one has a full disk."""
    program = f"""
from resource import RLIM_INFINITY, RLIMIT_FSIZE, setrlimit
from jax.sharding import PartitionSpec
halves = jax.NamedSharding(everywhere.mesh, PartitionSpec(everywhere.mesh.axis_names[0]))
def halved(step):
    ones = np.ones((512, 512), np.float32)
    large = jax.make_array_from_callback(ones.shape, halves, ones.__getitem__)
    state = state_of(step)
    return state.replace(params=dict(state.params, large=large))
with open_checkpoints(workdir) as checkpoints:
    if number == {full}:
        setrlimit(RLIMIT_FSIZE, (1000, RLIM_INFINITY))
    checkpoints.save(halved(1), Progress())
    checkpoints._settle("checkpoints")
    setrlimit(RLIMIT_FSIZE, (RLIM_INFINITY, RLIM_INFINITY))
    checkpoints.save(halved(2), Progress())
    checkpoints.finish()
tell(restore(workdir, state=halved(0))[0].updates)
"""
    told = "warning: the state after step 1 could not be saved: "
    lines = [[told + "in another process, which says why", "found 2"] for _ in range(2)]
    lines[full][0] = told + "[Errno 27] File too large"
    assert run_two(program, tmp_path) == lines
