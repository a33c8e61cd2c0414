"""Marks of the cases that `make test` leaves to `make test-slow`."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def mostly_slow(names: str | tuple[str, ...], cases: Iterable[Any], quick: Collection[int]) -> Any:
    """Parametrise a test whose cases are slow, but those at the given places."""
    marked = [
        case
        if place in quick
        else pytest.param(*([case] if isinstance(names, str) else case), marks=pytest.mark.slow)
        for place, case in enumerate(cases)
    ]
    return pytest.mark.parametrize(names, marked)


def slow_but(cases: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """Return cases for a test, marked as slow but for the quick ones."""
    slow = pytest.mark.slow
    return [case if case in quick else pytest.param(case, marks=slow) for case in cases]
