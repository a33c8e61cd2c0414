"""Collectives and memory traffic of a compiled program, counted from its text (HLO)."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_COLLECTIVE = re.compile(rf"%?(\S+) = (.+?) ({_KINDS})(-start)?\(")
# Kinds whose start returns (operands, results), and for the last scalars, too.
_RETURN_OPERANDS = ("all-gather", "collective-permute")
# Booleans ("pred") have no number of bits.
_TYPE = r"(?:pred|[a-z]+(\d+))\[([\d,]*)\]"
_ARRAY = re.compile(_TYPE)
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%(\S+) = (.+?) ([a-z][a-z0-9-]*)\((.*?)\)(?:, |$)")
# An array with its layout: minor dimensions first, tiles, and a memory space that is not HBM.
_PLACED = re.compile(_TYPE + r"(?:\{([\d,]*)(?::T\(([\d,]+)\))?[^}]*?(S\(\d+\))?\})?")
_CALLED = re.compile(r" fusion\(.*calls=%([\w.-]+)")
# Instructions that touch no memory.
_NAMES = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "while")
# Instructions that take the time in which a collective may be on its way.
_WORK = re.compile(r" (?:fusion|convolution|dot|custom-call|reduce|while)\(")


class Collective(NamedTuple):
    """A collective operation.

    Attributes:
      kind: such as "all-reduce".
      bytes: bytes of its results.
      overlapped: whether the schedule computes something else while it is on its way.
    """

    kind: str
    bytes: int
    overlapped: bool


def collectives(program: str) -> dict[str, dict[str, int]]:
    """Return sums over the collectives of each kind in the HLO text of one device's program.

    The sums are `count`, `bytes`, and the number of those that are `overlapped`; see `Collective`.
    """
    found: dict[str, dict[str, int]] = {}
    for each in read_collectives(program):
        sums = found.setdefault(each.kind, {"count": 0, "bytes": 0, "overlapped": 0})
        sums["count"] += 1
        sums["bytes"] += each.bytes
        sums["overlapped"] += each.overlapped
    return found


def read_collectives(program: str) -> Iterator[Collective]:
    """Yield the collectives of a program's text; its instructions are in scheduled order."""
    lines = program.splitlines()
    for number, line in enumerate(lines):
        if match := _COLLECTIVE.search(line):
            name, results, kind, starts = match.groups()
            overlapped = bool(starts) and _works_before_done(lines[number + 1 :], name)
            arrays = _ARRAY.findall(results)
            if starts and kind in _RETURN_OPERANDS:
                arrays = [(bits, sizes) for bits, sizes in arrays if sizes]
                arrays = arrays[len(arrays) // 2 :]
            size = sum(math.prod(_numbers(sizes)) * int(bits or 8) // 8 for bits, sizes in arrays)
            yield Collective(kind, size, overlapped)


def moved_bytes(found: Mapping[str, Mapping[str, int]], devices: int) -> float:
    """Return the bytes that a device sends for the sums of `collectives`, in a ring of devices."""
    share = (devices - 1) / devices
    times = {"all-reduce": 2 * share, "reduce-scatter": devices - 1, "collective-permute": 1}
    return sum(times.get(kind, share) * sums["bytes"] for kind, sums in found.items())


def memory_bytes(program: str) -> int:
    """Return the bytes that a TPU reads and writes in its HBM, by the text of its program.

    XLA's own count includes the fast memory on the chip (VMEM), marked by "S(1)" in a layout, into
    which XLA moves as much as fits. Here each instruction reads its operands and writes its results
    once, with the padding of their tiles. If it only reads slices of an operand, or replaces a part
    of an array, these parts count alone. A copy or slice between the memories counts the bytes that
    it moves. The bodies of loops count once.
    """
    total, inside_fusion, found, parts = 0, False, {}, _parts(program)
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
        # (target, source, ...) or ((source), target, ...)
        if kind in ("copy-start", "slice-start"):
            moved = min(size for size, _ in arrays[:2])
            total += moved * sum(in_hbm for _, in_hbm in arrays[:2])
            continue
        called = _CALLED.search(line)
        some = parts.get(called[1], {}) if called else {}
        read = [
            (some.get(number, size), in_hbm)
            for number, operand in enumerate(_operands(operands))
            for size, in_hbm in found.get(operand, ())
        ]
        written = [(some.get("result", size), in_hbm) for size, in_hbm in arrays]
        total += sum(size for size, in_hbm in (*read, *written) if in_hbm)
    return total


def _parts(program: str) -> dict[str, dict[int | str, int]]:
    """Return the bytes of the parts of arrays that fused computations use, by their name.

    They are by the number of an operand of which only slices are read; and as "result" the bytes
    that are written, if only a part of an operand is replaced.
    """
    bodies: dict[str, list[tuple[bool, str, str, str, str]]] = {}
    name = ""
    for line in program.splitlines():
        if line and not line[0].isspace():
            name = line[1:].partition(" ")[0] if line.startswith("%fused") else ""
        elif name and (match := _INSTRUCTION.match(line)):
            is_root = line.lstrip().startswith("ROOT")
            bodies.setdefault(name, []).append((is_root, *match.groups()))
    return {name: _parts_of(body) for name, body in bodies.items()}


def _parts_of(body: list[tuple[bool, str, str, str, str]]) -> dict[int | str, int]:
    sizes = {name: sum(size for size, _ in _arrays(results)) for _, name, results, *_ in body}
    parts: dict[int | str, int] = {}
    for _, parameter, _, kind, number in body:
        if kind != "parameter":
            continue
        uses = [use for use in body if parameter in _operands(use[4])]
        firsts = [use for use in uses if _operands(use[4])[0] == parameter]
        kinds = {use[3] for use in uses}
        if firsts == uses and kinds and kinds <= {"slice", "dynamic-slice"}:
            parts[int(number)] = sum(sizes[use[1]] for use in uses)
        elif firsts == uses and kinds == {"dynamic-update-slice"} and uses[0][0]:
            parts[int(number)] = 0
            parts["result"] = sizes[_operands(uses[0][4])[1]]
    return parts


def _operands(text: str) -> list[str]:
    return re.findall(r"%([\w.-]+)", text)


def _arrays(results: str) -> list[tuple[int, bool]]:
    """Return the bytes of each array of a type, in whole tiles, and whether it is in HBM."""
    found = []
    for bits, sizes, order, tiles, elsewhere in _PLACED.findall(results):
        dims, tile = _numbers(sizes), _numbers(tiles)
        for dim, side in zip(_numbers(order), reversed(tile), strict=False):
            dims[dim] = -(-dims[dim] // side) * side
        found.append((math.prod(dims) * int(bits or 8) // 8, not elsewhere))
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
