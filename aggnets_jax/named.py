"""Functions that a config chooses by name and gives arguments to."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from aggnets_jax.errors import UserError, unknown


def choose(kind: str, functions: Mapping[str, Callable], name: str) -> Callable:
    """Returns `functions[name]`, or raises `UserError` with the nearest names."""
    if name not in functions:
        raise unknown(kind, str(name), functions)
    return functions[name]


def check_arguments(kind: str, function: Callable, arguments: Mapping[str, Any]) -> None:
    """Raises `UserError` for an argument that `function` has not, or needs and is not given.

    Args:
      kind: what is being called, for the message: "topology 'sparse'".
      function: the function whose keyword arguments are allowed.
      arguments: the keyword arguments it is to be called with.
    """
    parameters = inspect.signature(function).parameters.values()
    allowed = [p for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    keyword_only = [p for p in allowed if p.kind is p.KEYWORD_ONLY]
    for name in arguments:
        if name not in {p.name for p in keyword_only}:
            raise unknown(f"argument of {kind}", name, {p.name for p in keyword_only})
    missing = [p.name for p in keyword_only if p.default is p.empty and p.name not in arguments]
    if missing:
        raise UserError(f"{kind} needs the argument {missing[0]!r}")
