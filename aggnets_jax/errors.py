"""Mistakes in what the user gave: one clear line each, exit code 2."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input, told in one line: what was wrong and what is allowed."""


def unknown(kind: str, name: str, allowed: Iterable[str]) -> UserError:
    """Returns the error for a name that is not among the allowed ones.

    Args:
      kind: what is named, for example "topology".
      name: the name that was given.
      allowed: every name that would have been accepted.
    """
    allowed = sorted(allowed)
    near = difflib.get_close_matches(name, allowed, n=3, cutoff=0.5)
    if near:
        return UserError(f"unknown {kind} {name!r}; nearest: {', '.join(near)}")
    return UserError(f"unknown {kind} {name!r}; allowed: {', '.join(allowed) or 'none'}")
