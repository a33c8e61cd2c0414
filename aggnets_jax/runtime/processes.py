"""Child processes: pass signals on to them, and print their lines with a name."""

import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import BinaryIO, NamedTuple, Self, TextIO

from aggnets_jax.errors import Stopped

SIGHUP = getattr(signal, "SIGHUP", None)  # Windows has none
SIGNALS = tuple(filter(None, (signal.SIGTERM, signal.SIGINT, SIGHUP)))


class Child(NamedTuple):
    """A process to start: its name, program and arguments, and variables of the environment.

    The prefix is put before each line of its output; with "" the process prints them itself.
    """

    name: str
    command: Sequence[str]
    variables: Mapping[str, str]
    prefix: str = ""

    def command_line(self) -> str:
        """Return the command as one would type it."""
        variables = (f"{name}={shlex.quote(value)}" for name, value in self.variables.items())
        return " ".join([*variables, shlex.join(self.command)])


class Children:
    """A context in which SIGTERM and SIGINT go to all processes that it has started.

    SIGHUP, when a terminal is closed, is passed on as SIGTERM unless it was ignored (`nohup`).

    Attributes:
      running: processes by name.
      asked: the signals that came.
    """

    def __init__(self) -> None:
        self.running: dict[str, subprocess.Popen] = {}
        self.asked: list[signal.Signals] = []
        # Ends as (child, code), and signals; put from threads, and from handlers of signals.
        self._events: queue.SimpleQueue[tuple[Child, int] | signal.Signals] = queue.SimpleQueue()
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        self._previous = {
            number: signal.signal(number, self._note)
            for number in SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self.running.values():  # only after an exception
            process.kill()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def start(self, child: Child) -> None:
        """Start a process in its own session, so that Ctrl-C reaches only this process."""
        pipe = subprocess.PIPE if child.prefix else None
        process = subprocess.Popen(
            child.command,
            env={**os.environ, **child.variables},
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            start_new_session=True,
        )
        self.running[child.name] = process
        threading.Thread(target=self._attend, args=(child, process), daemon=True).start()

    def wait_for_end(self, timeout: float | None = None) -> tuple[Child, int] | None:
        """Wait for a process to end, and pass signals on.

        Returns:
          The process and its exit code: 128 + N after signal N, but `Stopped.exit_code` if the
          signal was passed on from here. None if a signal came, or after `timeout` seconds.
        """
        try:
            event = self._events.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(event, signal.Signals):
            self.asked.append(event)
            self.send(event)
            return None
        child, code = event
        del self.running[child.name]
        return child, Stopped.exit_code if code - 128 in self.asked else code

    def send(self, number: int) -> None:
        """Send a signal to all running processes."""
        for process in self.running.values():
            process.send_signal(number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._events.put(signal.SIGTERM if number == SIGHUP else signal.Signals(number))

    def _attend(self, child: Child, process: subprocess.Popen) -> None:
        readers = [
            threading.Thread(target=_print_lines, args=(stream, target, child.prefix), daemon=True)
            for stream, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
            if stream is not None
        ]
        for reader in readers:
            reader.start()
        code = process.wait()
        for reader in readers:
            reader.join(timeout=1)  # a process that it has started may hold the pipe open
        self._events.put((child, code if code >= 0 else 128 - code))


def describe_exit(code: int) -> str:
    """Describe how a process ended by its exit code, 128 + N after signal N."""
    if code > 128 and code - 128 in signal.valid_signals():
        return f"was ended by {signal.Signals(code - 128).name}"
    return f"ended with exit code {code}"


def common_exit_code(codes: Sequence[int]) -> int:
    """Return one exit code for several, given in the order in which the processes ended.

    It is the code of the first that failed; else `Stopped.exit_code` if one was stopped; else 0.
    """
    failed = [code for code in codes if code not in (0, Stopped.exit_code)]
    return failed[0] if failed else max(codes, default=0)


def _print_lines(stream: BinaryIO, target: TextIO, prefix: str) -> None:
    with stream:
        for line in stream:
            try:
                # In one piece, so that lines of several processes don't mix.
                os.write(target.fileno(), f"{prefix}: ".encode() + line.rstrip(b"\n") + b"\n")
            except OSError:
                continue  # nobody reads on; the process would wait for a reader
