"""Profiler traces of some steps."""

import contextlib
import math
from collections.abc import Sequence

import jax

from aggnets_jax.files import AnyPath, filled_folder


class Profile(contextlib.AbstractContextManager):
    """A trace of the steps (first, last), counted from 1, in a folder that TensorBoard shows.

    Without steps, (), there is no trace. For a bucket, it is written on this machine and uploaded.
    """

    def __init__(self, steps: Sequence[int], folder: AnyPath) -> None:
        self._first, self._last = steps or (None, None)
        self._folder = folder
        self._running = False
        self._stack = contextlib.ExitStack()

    def __exit__(self, *exception: object) -> None:
        self._stop()

    def before(self, step: int) -> None:
        """Start the trace if this step is the first."""
        if step == self._first:
            folder = self._stack.enter_context(filled_folder(self._folder))
            jax.profiler.start_trace(str(folder))
            self._running = True

    def next_boundary(self, step: int) -> float:
        """Return the next step, later than `step`, after which a trace starts or stops."""
        boundaries = [self._first - 1, self._last] if self._first else []
        return min((b for b in boundaries if b > step), default=math.inf)

    def after(self, step: int, result: object) -> None:
        """Stop the trace if this step is the last, when the devices have its result."""
        if self._running and step == self._last:
            jax.block_until_ready(result)
            self._stop()

    def _stop(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
            self._stack.close()
