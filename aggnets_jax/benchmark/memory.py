"""Smaller batches where a program does not fit into the memory."""

from collections.abc import Callable
from typing import TypeVar

import jax

from aggnets_jax.errors import UserError, one_line
from aggnets_jax.runtime.memory import is_out_of_memory

T = TypeVar("T")


def backing_off(build: Callable[[int], T], batch_size: int, what: str) -> tuple[T, int]:
    """Build programs; as long as the memory does not suffice, halve the batch and print a line.

    A half that the devices can't divide is rounded down.

    Args:
      build: function that builds the programs for a batch size and runs them once.
      batch_size: batch size to start with, a multiple of the number of devices.
      what: name of the programs, for the line.

    Returns:
      The result of `build`, and the batch size that fitted.

    Raises:
      UserError: if there is too little memory for one image on each device.
    """
    while True:
        try:
            return build(batch_size), batch_size
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = one_line(str(error).partition("\n")[0])
        smaller = batch_size // 2 // jax.device_count() * jax.device_count()
        if not smaller:
            raise UserError(f"{what}: no memory for a batch of {batch_size}: {reason}")
        print(f"{what}: no memory for a batch of {batch_size}, now {smaller}: {reason}", flush=True)
        batch_size = smaller
