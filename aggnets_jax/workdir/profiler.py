"""Profiler traces of some steps."""

import contextlib
import math
import sys
from collections.abc import Iterator, Sequence

import jax

from aggnets_jax.errors import one_line
from aggnets_jax.files import AnyPath, filled_folder


class Profile(contextlib.AbstractContextManager):
    """A trace of the steps (first, last), counted from 1, in a folder that TensorBoard shows.

    Without steps, (), there is no trace. For a bucket, it is written on this machine and uploaded.
    A trace that fails ends with one warning, and the run goes on.
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
            with self._warning(), contextlib.ExitStack() as stack:
                folder = stack.enter_context(filled_folder(self._folder))
                jax.profiler.start_trace(str(folder))
                self._stack, self._running = stack.pop_all(), True

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
            self._running = False
            # Nothing is uploaded after an error.
            with self._warning(), self._stack:
                jax.profiler.stop_trace()

    @contextlib.contextmanager
    def _warning(self) -> Iterator[None]:
        """Print a warning in place of an error: a full disk, a folder that can't be written."""
        try:
            yield
        except Exception as error:
            told = f"warning: no profile is written to {self._folder}: {one_line(error)}"
            print(told, file=sys.stderr, flush=True)
