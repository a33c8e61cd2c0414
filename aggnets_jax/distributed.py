"""Several processes that train one network together, on JAX's distributed runtime."""

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from aggnets_jax.errors import UserError

Result = TypeVar("Result")


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
