"""Notes on the terminal about what takes a while; none where stderr is a file or a pipe."""

import functools
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

_EVERY = 1.0  # seconds between two notes of a count


def note(text: str) -> None:
    """Print a line about the work that begins."""
    if sys.stderr.isatty():
        print(f"{text} ...", file=sys.stderr, flush=True)


@functools.cache
def print_once(line: str) -> None:
    """Print a line on stderr, unless this process has printed it before."""
    print(line, file=sys.stderr, flush=True)


def counted(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """Yield items, and show how many of a total are done in a line that vanishes at the end."""
    if not sys.stderr.isatty():
        yield from items
        return
    last = time.monotonic()
    shown = False
    try:
        for done, item in enumerate(items):
            if time.monotonic() - last >= _EVERY:
                print(f"\r{what}: {done} of {total}", end="", file=sys.stderr, flush=True)
                last, shown = time.monotonic(), True
            yield item
    finally:
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
