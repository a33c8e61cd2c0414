"""Collectives of a compiled program, read from its text."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_COLLECTIVE = re.compile(rf"%?(\S+) = (.+?) ({_KINDS})(-start)?\(")
_ARRAY = re.compile(r"([a-z]+)(\d+)\[([\d,]*)\]")
# Instructions that take the time in which a collective may be on its way.
_WORK = re.compile(r" (?:fusion|convolution|dot|custom-call|reduce|while)\(")


class Collective(NamedTuple):
    """A collective operation: its kind, the bytes of its results, and whether others hide it."""

    kind: str
    bytes: int
    overlapped: bool


def collectives(program: str) -> dict[str, dict[str, int]]:
    """Return the sums over each kind of collective in one device's HLO text.

    They are the `count`; the `bytes` of the results; and the number `overlapped`, during which the
    schedule computes something else.
    """
    found: dict[str, dict[str, int]] = {}
    for each in read_collectives(program):
        sums = found.setdefault(each.kind, {"count": 0, "bytes": 0, "overlapped": 0})
        sums["count"] += 1
        sums["bytes"] += each.bytes
        sums["overlapped"] += each.overlapped
    return found


def read_collectives(program: str) -> Iterator[Collective]:
    """Yield the collectives of a program's text, which lists instructions as they are scheduled."""
    lines = program.splitlines()
    for number, line in enumerate(lines):
        if match := _COLLECTIVE.search(line):
            name, results, kind, starts = match.groups()
            overlapped = bool(starts) and _works_before_done(lines[number + 1 :], name)
            yield Collective(kind, _bytes(results), overlapped)


def moved_bytes(found: Mapping[str, Mapping[str, int]], devices: int) -> float:
    """Return the bytes that a device sends for the collectives, around a ring of all devices."""
    share = (devices - 1) / devices
    times = {"all-reduce": 2 * share, "reduce-scatter": devices - 1, "collective-permute": 1}
    return sum(times.get(kind, share) * sums["bytes"] for kind, sums in found.items())


def _works_before_done(lines: list[str], name: str) -> bool:
    done = re.compile(rf"-done\(.*%{re.escape(name)}\b")
    for line in lines:
        if done.search(line):
            return False
        if _WORK.search(line):
            return True
    return False


def _bytes(results: str) -> int:
    total = 0
    for _, bits, sizes in _ARRAY.findall(results):
        total += math.prod(int(size) for size in sizes.split(",") if size) * int(bits) // 8
    return total
