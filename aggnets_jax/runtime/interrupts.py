"""Signals before there is a state to save: the process ends at once, with one line.

This module imports nothing slow, so that a command can call `end_at_signals` first of all.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)

_ending = threading.Lock()
_cleanups: list[Callable[[], object]] = []


def heeded() -> list[signal.Signals]:
    """Return the signals of `SIGNALS` that this process was not started to ignore.

    A shell without job control starts processes in the background (`command &`) with SIGINT
    ignored, so that Ctrl-C ends the one in the foreground alone. They end by SIGTERM.
    """
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def end_at_signals() -> None:
    """End the process at a signal from now on, with exit code 128 + N; for the main thread.

    Python's own way, an exception anywhere in the program, leaves long tracebacks, and libraries
    may swallow it. `StopRequest` and `Children` replace the handlers while they are in use. Another
    call puts back a handler that a library has replaced.
    """
    again = ends_at_signals()
    for number in heeded():
        signal.signal(number, _end)
    if again or not ends_at_signals():
        return
    # A handler waits while the main thread imports or compiles; the thread does not.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()


def ends_at_signals() -> bool:
    """Return whether a signal ends this process at once."""
    return any(signal.getsignal(number) is _end for number in SIGNALS)


@contextlib.contextmanager
def cleaning_up(action: Callable[[], object]) -> Iterator[None]:
    """Call a function at the end of the context, also when a signal ends the process before."""
    _cleanups.append(action)
    try:
        yield
    finally:
        _cleanups.remove(action)
        action()


def ignore_signals() -> None:
    """Ignore the signals that would end this process at once: it is about to end anyway."""
    for number in SIGNALS:
        if signal.getsignal(number) is _end:
            signal.signal(number, signal.SIG_IGN)


def _watch(reader: int) -> None:
    while received := os.read(reader, 1):
        if signal.getsignal(received[0]) is _end:
            _end(received[0], None)


def _end(number: int, frame: FrameType | None) -> None:
    if not _ending.acquire(blocking=False):  # the other thread is at it
        return
    os.write(2, f"{signal.Signals(number).name}: stopped\n".encode())
    for action in reversed(_cleanups):
        with contextlib.suppress(Exception):
            action()
    os._exit(128 + number)
