"""A program whose steps are timed, and its compilation."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from aggnets_jax.runtime.memory import peak_bytes
from aggnets_jax.training.state import TrainState


class Compiled(NamedTuple):
    """A compiled program.

    Attributes:
      call: the executable; None if XLA did not compile the program.
      lower_seconds: time of tracing and lowering; None if it is part of the next.
      compile_seconds: time of compilation.
    """

    call: jax.stages.Compiled | None
    lower_seconds: float | None
    compile_seconds: float


@dataclasses.dataclass
class Program:
    """A program whose steps are timed.

    Attributes:
      run: runs the given number of steps and waits for the devices.
      images: number of images in a step; in a sweep, images times masks; None if a step computes no
        images.
      passes: cost of a step for one image, in forward passes of the network.
      compiled: the compiled step; None if it is not compiled, or not yet.
      warms_up: whether the first run is left out of the measurement.
      state: state of the training after the last step; the next step reuses its memory.
      peak_bytes: returns the peak memory use of a device so far, or None if it is unknown.
    """

    run: Callable[[int], None]
    images: int | None
    passes: int
    compiled: Compiled | None = None
    warms_up: bool = True
    state: TrainState | None = None
    peak_bytes: Callable[[], int | None] = peak_bytes


def compile_program(jitted: Any, *arguments: Any) -> Compiled:
    """Lower and compile a jitted function for the shapes of its arguments, timing both."""
    began = time.perf_counter()
    lowered = jitted.lower(*arguments)
    lower_seconds = time.perf_counter() - began
    began = time.perf_counter()
    return Compiled(lowered.compile(), lower_seconds, time.perf_counter() - began)
