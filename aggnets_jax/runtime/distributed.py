"""Several processes that train one network together, on JAX's distributed runtime.

They share a workdir. All of them save their parts of the checkpoints; the first writes everything
else, and alone prints.
"""

import contextlib
import ctypes
import importlib.util
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from aggnets_jax.errors import LostProcess, Stopped, UserError, one_line

Result = TypeVar("Result")

JOIN_TIMEOUT = 300
"""Seconds that processes wait for each other at the start."""

# What JAX's errors say when another process is gone.
_GONE = re.compile("gloo|connection|coordination|heartbeat|socket|peer", re.IGNORECASE)

_ABORTED = b"""error: JAX ended this process, most likely because another one was lost: see above
"""


def join(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    expected_processes: int | None = None,
    timeout: int | None = None,
) -> None:
    """Joins the processes of a run; to be called before anything asks for the devices.

    Without the first three, the processes are those of the cluster that started this one; so is
    what is None of them. Without a cluster, or with one process, there is nothing to join.

    Args:
      coordinator_address: host and port at which the first process listens, "10.0.0.1:1234".
      num_processes: in all.
      process_id: of this one, counted from 0.
      expected_processes: how many there must be.
      timeout: seconds to wait for the others; default 300. When they are over, the process ends
        with `UserError.exit_code` if the address was given, else with `LostProcess.exit_code`: a
        cluster may be slow.

    Raises:
      UserError: if there can be no such process, no connection, or not as many as expected.
    """
    timeout = JOIN_TIMEOUT if timeout is None else timeout
    _check(coordinator_address, num_processes, process_id, expected_processes, timeout)
    cluster = find_cluster()
    given = (coordinator_address, num_processes, process_id)
    if cluster == "Open MPI":  # also that of release 5, which JAX doesn't know
        num_processes = num_processes or int(os.environ["OMPI_COMM_WORLD_SIZE"])
        if process_id is None:
            process_id = int(os.environ["OMPI_COMM_WORLD_RANK"])
    if cluster is None and None in given and given != (None, None, None):
        raise UserError("--coordinator_address, --num_processes and --process_id go together")
    if cluster is not None or None not in given:
        where = coordinator_address or f"the coordinator that {cluster} names"
        code = (UserError if coordinator_address else LostProcess).exit_code
        late = f"{where} and all processes did not answer within {timeout} s"
        with _ending_after(timeout, late, code):
            try:
                jax.distributed.initialize(
                    coordinator_address,
                    num_processes,
                    process_id,
                    cluster_detection_method="deactivate" if None not in given else None,
                    # Past the time after which this process ends with a line of its own.
                    initialization_timeout=timeout + 60,
                )
            except (RuntimeError, ValueError) as error:
                raise UserError(_unjoined(cluster, error)) from error
        _tell_of_aborts()
    if expected_processes not in (None, n := jax.process_count()):
        raise UserError(
            f"--expected_processes is {expected_processes}, and there are {n}"
            + ("" if jax.distributed.is_initialized() else ": no cluster was found")
        )
    if n > 1 and is_first():
        devices = f"{jax.device_count()} devices, {jax.local_device_count()} of them here"
        print(f"{n} processes{f' of {cluster}' if cluster else ''} with {devices}", flush=True)
    elif not is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  open until the process ends


def find_cluster() -> str | None:
    """What started this process as one of several, by the variables that it sets."""
    variables = os.environ
    # Those of `srun`: the script of a job, and a shell in it, are no tasks.
    if "SLURM_STEP_NODELIST" in variables and variables.get("SLURM_NTASKS", "1") != "1":
        return "SLURM"
    if variables.get("OMPI_COMM_WORLD_SIZE", "1") != "1":
        return "Open MPI"
    platforms = variables.get("JAX_PLATFORMS", "")
    if importlib.util.find_spec("libtpu") and platforms in ("", "tpu", "tpu,cpu"):
        return "Cloud TPU"
    if "KUBERNETES_SERVICE_HOST" in variables and "JOB_COMPLETION_INDEX" in variables:
        return "Kubernetes"
    return None


def _check(
    coordinator_address: str | None,
    num_processes: int | None,
    process_id: int | None,
    expected_processes: int | None,
    timeout: int,
) -> None:
    address = r"[^\s:]+:[0-9]{1,5}|\[[0-9a-fA-F:]+\]:[0-9]{1,5}"
    if coordinator_address is not None and not re.fullmatch(address, coordinator_address):
        raise UserError(f"--coordinator_address must be HOST:PORT, got {coordinator_address!r}")
    for flag, value in (
        ("num_processes", num_processes),
        ("expected_processes", expected_processes),
        ("join_timeout", timeout),
    ):
        if value is not None and value < 1:
            raise UserError(f"--{flag} must be at least 1, got {value}")
    if process_id is not None and not 0 <= process_id < (num_processes or process_id + 1):
        last = f" to {num_processes - 1}" if num_processes else ""
        raise UserError(f"--process_id must be from 0{last}, got {process_id}")


def _unjoined(cluster: str | None, error: Exception) -> str:
    if cluster == "Kubernetes" and importlib.util.find_spec("kubernetes") is None:
        return "in Kubernetes JAX needs its Python package: pip install 'jax[k8s]'"
    if cluster == "Open MPI" and "OMPI_MCA_orte_hnp_uri" not in os.environ:
        return "this Open MPI names no coordinator: give --coordinator_address=HOST:PORT"
    return f"the processes can't be joined: {one_line(error)}"


@contextlib.contextmanager
def _ending_after(seconds: float, message: str, code: int) -> Iterator[None]:
    """Ends the process, with a line, when seconds are over: JAX would abort it, with a long one."""

    def end() -> None:
        print(f"error: {message}", file=sys.stderr, flush=True)
        os._exit(code)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _tell_of_aborts() -> None:
    """Adds a line to what JAX says when another process is lost, of which it then would die.

    A handler of Python's own would wait for the main thread, and this for the other process.
    """
    ctypes.CDLL(None).signal(signal.SIGABRT, _end_aborted)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _end_aborted(number: int) -> None:
    os.write(sys.stderr.fileno(), _ABORTED)
    os._exit(LostProcess.exit_code)


@contextlib.contextmanager
def report_lost_processes() -> Iterator[None]:
    """Says so in a line when the programs of the devices failed because a process was lost.

    Raises:
      LostProcess: then.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.distributed.is_initialized() and _GONE.search(str(error)):
            raise LostProcess(
                f"another process was lost; start all of them again: {one_line(error)}"
            ) from error
        raise


def is_first() -> bool:
    """Whether this is the process that writes the files of the workdir and prints."""
    return jax.process_index() == 0


def to_host(array: jax.Array | np.ndarray) -> np.ndarray:
    """The whole of an array; all processes must ask for it if it is divided among them."""
    here = isinstance(array, np.ndarray) or array.is_fully_addressable
    if not (here or array.is_fully_replicated):
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def on_first_process(action: Callable[[], Result]) -> Result | None:
    """Does something in the first process, while the others wait; they get None.

    Raises:
      UserError: in all of them, if it does so in the first.
    """
    if jax.process_count() == 1:
        return action()
    result, error = None, None
    if is_first():
        try:
            result = action()
        except UserError as raised:
            error = raised
    if multihost_utils.process_allgather(np.int32(error is not None)).any():
        raise error or UserError("the first process has stopped, and says why")
    return result


def error_in_any(error: Exception | None) -> Exception | None:
    """What was wrong in this process or, if nothing, that something was in another.

    All processes must ask at the same place of their programs, and then do the same.
    """
    if jax.process_count() > 1:
        anywhere = multihost_utils.process_allgather(np.int32(error is not None)).any()
        if anywhere and error is None:
            return OSError("in another process, which says why")
    return error


def leave(code: int) -> None:
    """Ends one of several processes after an error, at once.

    The usual end waits for the others, and these may be waiting for this one. A run that stops
    does so in all of them.
    """
    if code != Stopped.exit_code and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
