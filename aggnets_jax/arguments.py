"""Functions that a config selects by name, and checks of their arguments."""

import difflib
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from aggnets_jax.errors import UserError, unknown


def choose(kind: str, functions: Mapping[str, Callable], name: str) -> Callable:
    """Return `functions[name]`; raise `UserError` with the nearest names if there is none."""
    if not isinstance(name, str) or name not in functions:
        raise unknown(kind, str(name), functions)
    return functions[name]


def check_arguments(kind: str, function: Callable, arguments: Mapping[str, Any]) -> None:
    """Raise `UserError` if an argument is unknown, missing or of the wrong type.

    The function's annotated keyword-only arguments are allowed, and others if it takes
    `**arguments`. `kind` is its name in messages: "topology 'sparse'".
    """
    try:
        signature = inspect.signature(function, eval_str=True)
    except NameError:  # an annotation of a user's function that is there for type checkers alone
        signature = inspect.signature(function)
    parameters = signature.parameters.values()
    allowed = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for name, value in arguments.items():
        if any_name and name not in allowed:
            continue
        if name not in allowed:
            raise UserError(no_argument(kind, str(name), allowed))
        if not _fits(value, allowed[name].annotation):
            annotation = inspect.formatannotation(allowed[name].annotation)
            wanted = annotation.replace("collections.abc.", "")
            raise UserError(f"argument {name!r} of {kind} must be {wanted}, got {value!r}")
    for name, parameter in allowed.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise UserError(f"{kind} needs the argument {name!r}")


def no_argument(kind: str, name: str, allowed: Iterable[str]) -> str:
    """Return the message about an argument that something has not: the nearest, and all."""
    near = difflib.get_close_matches(name, allowed, n=3, cutoff=0.5)
    nearest = f"; nearest: {', '.join(near)}" if near else ""
    return f"{kind} has no argument {name!r}{nearest}; it has: {', '.join(allowed) or 'none'}"


def _fits(value: Any, annotation: Any) -> bool:
    """Return whether a value has the annotated type; unsupported annotations accept any value."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, part) for part in parts)
    if origin is Sequence:
        sequence = isinstance(value, Sequence) and not isinstance(value, str)
        return sequence and all(_fits(item, parts[0]) for item in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(_fits(key, parts[0]) for key in value)
    if annotation in (int, float):
        number = numbers.Integral if annotation is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool)
    return isinstance(value, annotation) if annotation in (bool, str, type(None)) else True


def check_number(what: str, value: float, least: float, most: float = math.inf) -> None:
    """Raise `UserError` unless a value is a finite number from `least` to `most`."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not least <= value <= most or math.isinf(value):
        allowed = f"at least {least}, and finite" if most == math.inf else f"from {least} to {most}"
        raise UserError(f"{what} must be a number {allowed}, got {value!r}")


def check_whole_number(what: str, value: int, least: int, most: float = math.inf) -> None:
    """Raise `UserError` unless a value is a whole number from `least` to `most`."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < least:
        raise UserError(f"{what} must be a whole number of at least {least}, got {value!r}")
    if value > most:
        raise UserError(f"{what} must be a whole number of at most {most}, got {value!r}")


def layers_in_depth(depth: int, step: int, offset: int) -> int:
    """Return n for depth = step * n + offset; raise `UserError` with the nearest depth if none."""
    check_whole_number("depth", depth, 0)
    n, rest = divmod(depth - offset, step)
    if n < 1 or rest:
        nearest = step * max(1, round((depth - offset) / step)) + offset
        raise UserError(
            f"depth {depth} fits no network of this family; allowed: {step}n + {offset},"
            f" nearest {nearest}"
        )
    return n


def known_depth(depth: int | None, known: Mapping[int, Any]) -> Any:
    """Return `known[depth]`, or raise `UserError` with the allowed and the nearest depths."""
    if depth is None:
        raise UserError(f"a network needs the argument 'depth'; allowed: {[*known]}")
    if depth not in known:
        nearest = min(known, key=lambda each: abs(each - depth))
        raise UserError(f"no network of depth {depth}; allowed: {[*known]}, nearest {nearest}")
    return known[depth]


def given_or(defaults: Sequence[Any], *given: Any) -> tuple[Any, ...]:
    """Return the given values, with the default in the place of each None."""
    return tuple(d if g is None else g for g, d in zip(given, defaults, strict=True))
