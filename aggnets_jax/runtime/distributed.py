"""Several processes that train one network together, on JAX's distributed runtime.

They share a workdir. All of them save their parts of the checkpoints; only the first prints, and
writes all other files.
"""

import contextlib
import ctypes
import importlib.util
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from aggnets_jax.errors import LostProcess, Stopped, UserError, one_line
from aggnets_jax.runtime.interrupts import end_at_signals, ends_at_signals

Result = TypeVar("Result")

# What JAX's errors say when another process is gone.
_GONE = re.compile("gloo|connection|coordination|heartbeat|socket|peer", re.IGNORECASE)

# Where processes note, for the others, the exit codes with which they end.
_LEFT = "aggnets_jax/left"

# How long the first process, which keeps these notes, waits for those of the others.
_SECONDS_TO_LEAVE = 5

_ABORTED = b"error: JAX ended this process, most likely because another one was lost: see above\n"


def join(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    expected_processes: int | None = None,
    timeout: int | None = None,
) -> None:
    """Join the processes of a run; to be called before anything asks for the devices.

    The first process listens at the address, "10.0.0.1:1234"; `process_id` counts from 0. These
    arguments are by default what the cluster says that started this process. Without a cluster, or
    with one process, there is nothing to join. After `timeout` seconds without the others, by
    default 300, the process ends with `UserError.exit_code` if the address was given, else with
    `LostProcess.exit_code`: a cluster may be slow.

    Raises:
      UserError: if there can be no such process, no connection, or another number than expected.
    """
    timeout = 300 if timeout is None else timeout
    _check(coordinator_address, num_processes, process_id, expected_processes, timeout)
    cluster = find_cluster()
    given = (coordinator_address, num_processes, process_id)
    if cluster == "Open MPI":  # also release 5, which JAX doesn't know
        num_processes = num_processes or int(os.environ["OMPI_COMM_WORLD_SIZE"])
        if process_id is None:
            process_id = int(os.environ["OMPI_COMM_WORLD_RANK"])
    if None not in given or cluster is not None:
        whole = None not in given
        _initialize((coordinator_address, num_processes, process_id), cluster, whole, timeout)
        _report_aborts()
    elif given != (None, None, None):
        raise UserError("--coordinator_address, --num_processes and --process_id go together")
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


def _initialize(
    processes: tuple[str | None, int | None, int | None],
    cluster: str | None,
    whole: bool,
    timeout: int,
) -> None:
    """Initialise JAX's runtime; `whole`: the cluster need not be asked for anything."""
    coordinator_address = processes[0]
    where = coordinator_address or f"the coordinator that {cluster} names"
    code = (UserError if coordinator_address else LostProcess).exit_code
    problem = f"{where} and the other processes did not all answer within {timeout} s"
    with _end_after(timeout, problem, code):
        try:
            jax.distributed.initialize(
                *processes,
                cluster_detection_method="deactivate" if whole else None,
                # Past the time after which this process ends with a line of its own.
                initialization_timeout=timeout + 60,
            )
        except (RuntimeError, ValueError) as error:
            if cluster == "Kubernetes" and importlib.util.find_spec("kubernetes") is None:
                reason = "in Kubernetes JAX needs its Python package: pip install 'jax[k8s]'"
            elif cluster == "Open MPI" and "OMPI_MCA_orte_hnp_uri" not in os.environ:
                reason = "this Open MPI names no coordinator: give --coordinator_address=HOST:PORT"
            else:
                reason = f"the processes can't be joined: {one_line(error)}"
            raise UserError(reason) from error
    if ends_at_signals():
        end_at_signals()  # JAX has taken SIGTERM for a service that nothing here uses


def find_cluster() -> str | None:
    """Return the kind of cluster that started this process as one of several, or None."""
    variables = os.environ
    # Set by `srun`: the script of a job, and a shell in it, are no tasks.
    if "SLURM_STEP_NODELIST" in variables and variables.get("SLURM_NTASKS", "1") != "1":
        return "SLURM"
    if variables.get("OMPI_COMM_WORLD_SIZE", "1") != "1":
        return "Open MPI"
    # JAX sets its platforms to "tpu,cpu" where it finds chips. libtpu alone may only compile.
    platforms = jax.config.jax_platforms  # type: ignore[attr-defined]
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
    numbers = {"num_processes": num_processes, "expected_processes": expected_processes}
    for flag, value in {**numbers, "join_timeout": timeout}.items():
        if value is not None and value < 1:
            raise UserError(f"--{flag} must be at least 1, got {value}")
    if process_id is not None and not 0 <= process_id < (num_processes or process_id + 1):
        last = f" to {num_processes - 1}" if num_processes else ""
        raise UserError(f"--process_id must be from 0{last}, got {process_id}")


@contextlib.contextmanager
def _end_after(seconds: float, message: str, code: int) -> Iterator[None]:
    """End the process with a line when the time is over; JAX would abort it with many."""

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


def _report_aborts() -> None:
    """Add a line to JAX's message when another process is lost and JAX aborts this one.

    A handler in Python would wait for the main thread, which waits for the other process.
    """
    ctypes.CDLL(None).signal(signal.SIGABRT, _end_aborted)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _end_aborted(number: int) -> None:
    os.write(sys.stderr.fileno(), _ABORTED)
    os._exit(LostProcess.exit_code)


@contextlib.contextmanager
def report_lost_processes() -> Iterator[None]:
    """Raise `LostProcess` when a program failed because another process was lost.

    Raise `UserError` if that one has ended with such an error: a new start would not help.
    """
    try:
        yield
    except UserError:
        raise
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # Gloo's may be a ValueError.
        gone = "Gloo" in str(error) if isinstance(error, ValueError) else _GONE.search(str(error))
        if jax.distributed.is_initialized() and gone:
            if _has_left(UserError.exit_code):
                raise UserError("another process has stopped, and says why") from error
            raise LostProcess(
                f"another process was lost; start all of them again: {one_line(error)}"
            ) from error
        raise


def is_first() -> bool:
    """Return whether this is the process that writes the files of the workdir and prints."""
    return jax.process_index() == 0


def to_host(array: jax.Array | np.ndarray) -> np.ndarray:
    """Return the whole array; all processes must call this if it is divided among them."""
    here = isinstance(array, np.ndarray) or array.is_fully_addressable
    if not (here or array.is_fully_replicated):
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def on_first_process(action: Callable[[], Result]) -> Result | None:
    """Call a function in the first process; others wait, and return None.

    If it raises an error, the others raise one that reports it: `UserError` for a `UserError`, else
    `OSError`.
    """
    result = error = None
    if is_first():
        try:
            result = action()
        except Exception as raised:
            error = raised
    told = "the first process has stopped, and says why"
    if in_any_process(isinstance(error, UserError)):
        raise error or UserError(told)
    if in_any_process(error is not None):
        raise error or OSError(told)
    return result


def of_first_process(action: Callable[[], Result]) -> Result:
    """Call a function in the first process, and return its result in all processes.

    The result is JSON data; other processes get its tuples as lists. Errors are as for
    `on_first_process`.
    """
    result = on_first_process(action)
    return next(found for first, found in gather((is_first(), result)) if first)


def gather(value: Any) -> list[Any]:
    """Return the values of all processes, JSON data, in one order everywhere."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    largest = int(multihost_utils.process_allgather(np.int32(text.size)).max())
    padded = np.full(-(-largest // 4096) * 4096, ord(" "), np.uint8)  # few sizes to compile
    padded[: text.size] = text
    return [json.loads(row.tobytes()) for row in multihost_utils.process_allgather(padded)]


def in_any_process(flag: bool) -> bool:
    """Return whether a flag is set in any process, in all of them at the same place."""
    return bool(multihost_utils.process_allgather(np.int32(flag)).any())


def error_in_any(error: Exception | None) -> Exception | None:
    """Return this process's error or, if it has none, one that reports another's; None if no one's.

    All processes must call this at the same place of their programs.
    """
    elsewhere = in_any_process(error is not None) and error is None
    return OSError("in another process, which says why") if elsewhere else error


def leave(code: int) -> None:
    """End one of several processes after an error, without the usual end.

    That one waits for the others, which may be waiting for this one. A run that was asked to stop
    does so in all processes.
    """
    if code != Stopped.exit_code and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        with contextlib.suppress(Exception):  # the first process may be gone
            _client().key_value_set(f"{_LEFT}/{code}/{jax.process_index()}", "")
            if is_first() and code != LostProcess.exit_code:
                _let_others_leave()
        os._exit(code)


def _let_others_leave() -> None:
    """Wait a few seconds until the others have ended: those with the same error are a bit behind.

    JAX aborts them as soon as the first process is gone.
    """
    end = time.monotonic() + _SECONDS_TO_LEAVE
    while time.monotonic() < end:
        time.sleep(0.1)
        if len(_client().key_value_dir_get(_LEFT)) == jax.process_count():
            break


def _has_left(code: int) -> bool:
    """Return whether a process is known to have ended with a code."""
    try:
        return bool(_client().key_value_dir_get(f"{_LEFT}/{code}"))
    except Exception:  # the first process, which knows, may be gone
        return False


def _client() -> Any:
    from orbax.checkpoint import multihost

    return multihost.get_jax_distributed_client()
