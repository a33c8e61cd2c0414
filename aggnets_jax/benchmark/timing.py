"""Step times of programs that take turns, so that other load affects all of them alike."""

import gc
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from aggnets_jax.benchmark.program import Program

# A median of fewer repeats says little, however long they take.
_LEAST_REPEATS = 3


class Spread(NamedTuple):
    """Median and quartiles of repeats."""

    median: float
    low: float
    high: float


class Times(NamedTuple):
    """Seconds per step.

    Attributes:
      seconds: float64 [programs, repeats].
      steps: number of steps of each program in a repeat.
    """

    seconds: np.ndarray
    steps: list[int]

    def of(self, program: int) -> Spread:
        """Return the median step time of a program, in seconds."""
        return _spread(self.seconds[program])

    def ratio(self, program: int) -> Spread:
        """Return the median speed of a program relative to the first one in the same repeat."""
        return _spread(self.seconds[0] / self.seconds[program])


def alternate(programs: Sequence[Program], repeats: int, seconds: float) -> Times:
    """Run programs in turn, A B A B ..., each for as many steps as fill its share of the time.

    Args:
      programs: programs that have run once, if they warm up.
      repeats: number of repeats of each program. It is reduced if a single step takes longer than
        its share of the time, to 3 at least, or to 1 if a program does not warm up.
      seconds: time for all repeats of a program.
    """
    first = np.array([_seconds_per_step(program, 1) for program in programs])
    warm = all(program.warms_up for program in programs)
    repeats = min(repeats, max(_LEAST_REPEATS if warm else 1, int(seconds // first.max())))
    steps = [max(1, round(seconds / repeats / each)) if warm else 1 for each in first]
    measured = [] if warm else [first]  # without warm-up the first run counts, too
    gc.collect()
    gc.disable()
    try:
        while len(measured) < repeats:
            each = zip(programs, steps, strict=True)
            measured.append([_seconds_per_step(program, count) for program, count in each])
    finally:
        gc.enable()
    return Times(np.transpose(measured), steps)


def _spread(values: np.ndarray) -> Spread:
    return Spread(*np.percentile(values, [50, 25, 75]).tolist())


def _seconds_per_step(program: Program, steps: int) -> float:
    began = time.perf_counter()
    program.run(steps)
    return (time.perf_counter() - began) / steps
