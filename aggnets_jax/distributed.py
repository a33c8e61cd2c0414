"""Several processes that train one network together, on JAX's distributed runtime.

They share a workdir. All of them save their parts of the checkpoints; the first writes everything
else, and alone prints.
"""

import os
import re
import sys
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from aggnets_jax.errors import Stopped, UserError, one_line

Result = TypeVar("Result")


def join(coordinator_address: str, num_processes: int, process_id: int) -> None:
    """Joins the processes of a run; to be called before anything asks for the devices.

    Args:
      coordinator_address: host and port at which the first process listens, "10.0.0.1:1234".
      num_processes: in all.
      process_id: of this one, counted from 0.

    Raises:
      UserError: if there can be no such process, or no connection.
    """
    if not re.fullmatch(r"[^\s:]+:[0-9]{1,5}|\[[0-9a-fA-F:]+\]:[0-9]{1,5}", coordinator_address):
        raise UserError(f"--coordinator_address must be HOST:PORT, got {coordinator_address!r}")
    if num_processes < 1:
        raise UserError(f"--num_processes must be at least 1, got {num_processes}")
    if not 0 <= process_id < num_processes:
        raise UserError(f"--process_id must be from 0 to {num_processes - 1}, got {process_id}")
    try:
        jax.distributed.initialize(coordinator_address, num_processes, process_id)
    except RuntimeError as error:
        raise UserError(f"the processes can't be joined: {one_line(error)}") from error
    if not is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  open until the process ends


def is_first() -> bool:
    """Whether this is the process that writes the files of the workdir and prints."""
    return jax.process_index() == 0


def first_does(action: Callable[[], Result]) -> Result | None:
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


def in_any(error: Exception | None) -> Exception | None:
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
