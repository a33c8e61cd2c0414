"""Times of programs that take turns, so that what else the machine does falls on all of them."""

import gc
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from aggnets_jax.benchmark.programs import Program

# Repeats at least, however long they take: a median of fewer says little.
_LEAST_REPEATS = 3


class Spread(NamedTuple):
    """Median and quartiles of repeats."""

    median: float
    low: float
    high: float


class Times(NamedTuple):
    """Seconds of a step.

    Attributes:
      seconds: float64 [programs, repeats].
      steps: of each program in a repeat.
    """

    seconds: np.ndarray
    steps: list[int]

    def of(self, program: int) -> Spread:
        """Those of a program."""
        return spread(self.seconds[program])

    def ratio(self, program: int) -> Spread:
        """How many times as fast as the first a program is, in the same repeat."""
        return spread(self.seconds[0] / self.seconds[program])


def alternate(programs: Sequence[Program], repeats: int, seconds: float) -> Times:
    """Runs programs in turn, A B A B ..., each as many steps at a time as fill its share.

    Args:
      programs: which have run before if they warm up.
      repeats: of each program. Where one of a single step takes more than its share of the time,
        they are fewer, but not less than 3, or 1 of what need not warm up.
      seconds: for all repeats of a program.
    """
    first = np.array([_seconds_of_step(program, 1) for program in programs])
    warm = all(program.warms_up for program in programs)
    most = max(_LEAST_REPEATS if warm else 1, int(seconds // first.max()))
    repeats = min(repeats, most)
    steps = (
        [max(1, round(seconds / repeats / each)) for each in first] if warm else [1] * len(first)
    )
    measured = [] if warm else [first]  # what need not warm up counts from the first run on
    gc.collect()
    gc.disable()
    try:
        while len(measured) < repeats:
            each = zip(programs, steps, strict=True)
            measured.append([_seconds_of_step(program, count) for program, count in each])
    finally:
        gc.enable()
    return Times(np.transpose(measured), steps)


def spread(values: np.ndarray) -> Spread:
    """Median and quartiles of some values."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return Spread(float(median), float(low), float(high))


def _seconds_of_step(program: Program, steps: int) -> float:
    began = time.perf_counter()
    program.run(steps)
    return (time.perf_counter() - began) / steps
