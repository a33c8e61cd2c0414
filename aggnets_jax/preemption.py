"""SIGTERM and SIGINT: a request to save and stop at the next step; the second one stops at once."""

import signal
import threading
from types import FrameType
from typing import Self


class StopRequest:
    """Within its context, notes a signal instead of dying of it.

    Attributes:
      signal: name of the signal that arrived, or None.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        # Python lets only the main thread handle signals.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        for handled in self._previous:
            signal.signal(handled, signal.SIG_DFL)
