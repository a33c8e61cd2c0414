"""Links of a user's patterns as data, so that restoring a run does not need the pattern's code.

A config keeps them as {name: [{"depth": 8, "arguments": {}, "sources": [[0], [1, 0], ...]}, ...]}.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aggnets_jax.connectivity.patterns import PATTERNS, Sources, is_own, pattern
from aggnets_jax.connectivity.topology import Made, Topology
from aggnets_jax.errors import UserError

Rows = Sequence[Mapping[str, Any]]


def rows_of(made: Iterable[Made]) -> dict[str, list[dict[str, Any]]]:
    """Return the topologies that users' patterns made, by the name of the pattern, as JSON data."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for topology, arguments in made:
        name = topology.name
        if name in PATTERNS and not is_own(name):
            continue
        sources = [list(each) for each in topology.sources]
        row = {"depth": topology.depth, "arguments": _as_json(arguments), "sources": sources}
        if row not in rows.setdefault(name, []):
            rows[name].append(row)
    return rows


class StoredPattern:
    """A pattern that is known by its links for some depths and arguments, and maybe by its code."""

    def __init__(self, name: str, rows: Rows) -> None:
        self.__name__ = name
        self._rows = rows

    def __call__(self, depth: int, **arguments: Any) -> Sources:
        """Return the stored sources; if there are none, compute them by the pattern's code.

        Raise `UserError` if neither is there.
        """
        for row in self._rows:
            if (row["depth"], row["arguments"]) == (depth, _as_json(arguments)):
                return row["sources"]
        name, known = self.__name__, ", ".join(str(row["depth"]) for row in self._rows)
        if name not in PATTERNS:
            raise UserError(
                f"pattern {name!r} is known by its links alone, for {known} layers and the run's"
                f" arguments; for {depth} layers and {arguments} its code is needed"
            )
        return PATTERNS[name](depth, **arguments)


def with_stored(arguments: Mapping[str, Any], stored: Mapping[str, Rows]) -> dict[str, Any]:
    """Return arguments of a network in which names of stored patterns are `StoredPattern`s."""

    def replaced(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(map(replaced, value))
        name = value.replace("-", "_") if isinstance(value, str) else None
        return StoredPattern(name, stored[name]) if name in stored else value

    return {
        name: replaced(value) if name.endswith("topology") else value
        for name, value in arguments.items()
    }


def as_data(value: Any) -> Any:
    """Return a topology of a config, or one for each stage, as names and lists of links.

    A function is registered as a pattern, and its name returned.
    """
    if isinstance(value, Topology):
        return tuple(value.links)
    if isinstance(value, list | tuple):
        return type(value)(map(as_data, value))
    return pattern(value).__name__ if callable(value) else value


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))
