"""Messages and memory traffic of a compiled program, counted from its text."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_COLLECTIVE = re.compile(rf"%?(\S+) = (.+?) ({_KINDS})(-start)?\(")
_ARRAY = re.compile(r"([a-z]+)(\d+)\[([\d,]*)\]")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%(\S+) = (.+?) ([a-z][a-z0-9-]*)\((.*?)\)(?:, |$)")
# An array with its layout: minor dimensions first, tiles, and a memory space that is not HBM.
_PLACED = re.compile(
    r"[a-z]+(\d+)\[([\d,]*)\](?:\{([\d,]*)(?::T\(([\d,]+)\))?[^}]*?(S\(\d+\))?\})?"
)
# Instructions that touch no memory.
_NAMES = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "while")
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


def memory_bytes(program: str) -> int:
    """Return the bytes that a TPU reads and writes in its HBM, by the text of its program.

    XLA also counts the bytes of the fast memory on the chip (VMEM), into which it moves as much as
    fits, as "S(1)" in a layout. Each instruction reads its operands and writes its results once,
    with the padding of their tiles; a copy or slice between the memories counts the bytes moved.
    The bodies of loops count once.
    """
    total, inside_fusion, found = 0, False, {}
    for line in program.splitlines():
        if line and not line[0].isspace():
            inside_fusion, found = line.startswith("%fused"), {}
        match = _INSTRUCTION.match(line)
        if inside_fusion or not match:
            continue
        name, results, kind, operands = match.groups()
        found[name] = arrays = _arrays(results)
        if kind in _NAMES or kind.endswith("-done"):
            continue
        names = re.findall(r"%([\w.-]+)", operands)
        read = [array for operand in names for array in found.get(operand, ())]
        # (target, source, ...) or ((source), target, ...)
        if kind in ("copy-start", "slice-start"):
            moved = min(size for size, _ in arrays[:2])
            total += moved * sum(in_hbm for _, in_hbm in arrays[:2])
        else:
            total += sum(size for size, in_hbm in (*arrays, *read) if in_hbm)
    return total


def _arrays(results: str) -> list[tuple[int, bool]]:
    """Return the bytes of each array of a type, in whole tiles, and whether it is in HBM."""
    found = []
    for bits, sizes, order, tiles, elsewhere in _PLACED.findall(results):
        dims, tile = _numbers(sizes), _numbers(tiles)
        for dim, side in zip(_numbers(order), reversed(tile), strict=False):
            dims[dim] = -(-dims[dim] // side) * side
        found.append((math.prod(dims) * int(bits) // 8, not elsewhere))
    return found


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


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
        total += math.prod(_numbers(sizes)) * int(bits) // 8
    return total
