"""Standard output and error that are closed, full, or lack a letter."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

BROKEN_PIPE = 141
"""Exit code if nobody reads the output any more: 128 + SIGPIPE, as of a program in C."""


def open_streams() -> None:
    """Make the standard streams usable, whatever the process was started with.

    If one is closed, the next file that is opened gets its number, and what libraries print is
    written into that file, for example into a checkpoint. Letters that the encoding of a stream
    lacks are escaped.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  until the end
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush_streams(code: int) -> int:
    """Write what is left of standard output at the end of a process; return its exit code.

    It is the given one, or 74 or `BROKEN_PIPE` instead of 0 if that fails.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        _discard(sys.stdout)
        if isinstance(error, BrokenPipeError):
            return code or BROKEN_PIPE
        print(f"error: standard output can't be written: {error.strerror}", file=sys.stderr)
        return code or 74
    return code


@contextlib.contextmanager
def losing_output() -> Iterator[None]:
    """Lose what can't be printed, rather than raise an error: what is computed is worth more."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_Losing, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in before:
            try:
                stream.flush()
            except OSError:
                _discard(stream)


class _Losing:
    """A stream whose failures are ignored."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


def _discard(stream: TextIO) -> None:
    """Send the rest of a stream nowhere, because Python tries to write it once more at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
