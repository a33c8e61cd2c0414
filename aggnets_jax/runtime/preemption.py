"""SIGTERM and SIGINT during training: save and stop at the next step; a second one ends at once.

Schedulers send SIGTERM, and SLURM sends it twice within a second when it preempts a job. SIGTERMs
within a few seconds are therefore one request. A signal that was ignored when the process started
stays ignored, see `interrupts.heeded`.
"""

import functools
import os
import signal
import threading
import time
from types import FrameType
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.runtime.interrupts import SIGNALS, heeded

SAME = 5.0
"""Seconds within which a second SIGTERM is the same request."""


class StopRequest:
    """A context in which a signal is noted instead of ending the process.

    With `listen=False` that begins at the call of `listen`.
    """

    def __init__(self, listen: bool = True) -> None:
        self._listens = listen
        self._signal = 0
        self._asked: jax.Array | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        if self._listens:
            self.listen()
        return self

    def listen(self) -> None:
        """Note signals from now on, until the context ends."""
        numbers = heeded()
        # Python lets only the main thread handle signals.
        of_main = threading.current_thread() is threading.main_thread()
        if numbers and of_main and not self._previous:
            self._previous = {number: signal.signal(number, self._note) for number in numbers}
            # The main thread may be in a compilation of minutes when the second signal comes.
            reader, self._writer = os.pipe()
            os.set_blocking(self._writer, False)
            self._previous_writer = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(reader,), daemon=True).start()

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._previous:
            signal.set_wakeup_fd(self._previous_writer)
            os.close(self._writer)  # which ends the thread

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = number

    @staticmethod
    def _watch(reader: int) -> None:
        first = None
        while received := os.read(reader, 1):
            number, now = received[0], time.monotonic()
            if number not in SIGNALS:
                continue
            if first is None:
                first = number, now
            elif {first[0], number} != {signal.SIGTERM} or now - first[1] > SAME:
                os._exit(128 + number)
        os.close(reader)

    def agreed(self, mesh: Mesh) -> str | None:
        """Return the name of the signal that arrived, or None.

        Several processes must call this at the same places of their programs. All get the same
        answer: the signal that any of them had received at the last call, so that none waits.
        """
        asked = self._signal
        if jax.process_count() > 1:
            numbers = np.full(jax.local_device_count(), self._signal, np.int32)
            numbers = jax.make_array_from_process_local_data(mesh_lib.batch_sharding(mesh), numbers)
            before, self._asked = self._asked, _largest(mesh)(numbers)
            asked = 0 if before is None else int(before)
        return signal.Signals(asked).name if asked else None


@functools.cache
def _largest(mesh: Mesh) -> jax.stages.Wrapped:
    return jax.jit(jnp.max, out_shardings=mesh_lib.replicated(mesh))
