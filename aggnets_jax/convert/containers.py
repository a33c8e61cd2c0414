"""Wrappers around the weights of a network in PyTorch files: containers, averages, prefixes.

    {"epoch": 3, "state_dict": {"module.conv1.weight": ...}, "state_dict_ema": {...}}

Training scripts save weights as an entry of a checkpoint, sometimes with averages in another entry.
Modules that wrap a network put prefixes before its names: `torch.compile`, `DataParallel`,
`AveragedModel`, Lightning.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from aggnets_jax.errors import UserError, unknown

# Parts of names that no network has; wrappers put them before the name of any submodule.
_INNER = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Prefixes of whole networks: `DataParallel` and `AveragedModel`; Lightning and others.
_OUTER = ("module", "model")
_COUNTER = "n_averaged"  # of `AveragedModel`
_AVERAGE = re.compile(r"(.*[_.])?(ema|swa|avg|average|averaged)([_.].*|\d*)", re.IGNORECASE)
_FEW = 8  # prefixes of networks that a file may have; more are the parts of a single network


def find_weights(
    file: str, content: Any, is_tensor: Callable[[Any], bool], entry: str | None
) -> Mapping[str, Any]:
    """Return the tensors by name among the content of a file.

    If there are several entries with weights, `entry` names one; by default it is the only one
    that is no average. It may also be the prefix of some names, in an entry or in all the file:
    "ema_model" or "state_dict.ema_model".

    Raises:
      UserError: if there are no weights, no such entry, or several among which to choose.
    """

    def others(mapping: Mapping[Any, Any]) -> list[Any]:
        return [k for k, v in mapping.items() if not (isinstance(k, str) and is_tensor(v))]

    if not isinstance(content, Mapping):
        raise UserError(f"{file} holds a {type(content).__name__}, not a state_dict")
    beside = others(content)
    if not beside:
        return content if entry is None else _chosen(file, {"": content}, entry)
    outer = _entries({"": content})
    inner, nested = (
        {name: each for name, each in entries.items() if each and not others(each)}
        for entries in (outer, _entries(outer))
    )
    if entry is not None:
        return _chosen(file, inner | nested, entry)
    inner = inner or nested
    if not inner:
        for key, value in (item for each in (content, *outer.values()) for item in each.items()):
            if is_tensor(value) and not isinstance(key, str):
                raise UserError(f"{file} is no state_dict: tensors have names, not {key!r}")
        kind = type(content[beside[0]]).__name__
        raise UserError(f"{file} is no state_dict: {beside[0]!r} is a {kind}, not a tensor")
    names = [*inner]
    chosen = [k for k in names if not _AVERAGE.fullmatch(k)] if len(names) > 1 else names
    if len(chosen) != 1:
        raise _ambiguous(file, names)
    also = [k for k in inner if k != chosen[0]]
    told = f"; weights, too, are in {', '.join(map(repr, also))} (entry=...)" if also else ""
    print(f"{file}: the weights are its entry {chosen[0]!r}, others are not read{told}", flush=True)
    return inner[chosen[0]]


def _entries(groups: Mapping[str, Mapping[Any, Any]]) -> dict[str, Mapping[Any, Any]]:
    """Return the mappings that are entries of mappings, by names such as "model.state_dict"."""
    return {
        f"{name}.{key}".removeprefix("."): value
        for name, group in groups.items()
        for key, value in group.items()
        if isinstance(value, Mapping)
    }


def _chosen(file: str, entries: Mapping[str, Mapping[str, Any]], entry: str) -> Mapping[str, Any]:
    """Return an entry with weights, or those whose names have a prefix, without the prefix.

    The entry of a file that has names only is "".
    """
    if entry and entry in entries:
        return entries[entry]
    found = {}
    for name, weights in entries.items():
        prefix = entry.removesuffix(".") + "."
        if name:
            prefix = prefix.removeprefix(f"{name}.")
        if some := {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}:
            found[f"{name}.{prefix}".strip(".")] = some
    if len(found) > 1:
        raise _ambiguous(file, [*found])
    if not found:
        names = [name for name in entries if name]
        for name, weights in entries.items():
            prefixes = _prefixes(weights)
            if not name or len(prefixes) <= _FEW:
                names += [f"{name}.{prefix}".removeprefix(".") for prefix in prefixes]
        raise unknown(f"entry of {file} with weights", entry, names)
    (weights,) = found.values()
    return weights


def _prefixes(names: Iterable[str]) -> set[str]:
    """Return the prefixes by which the names of modules differ first: "model", "ema_model"."""
    modules = [name.split(".")[:-1] for name in names]
    columns = zip(*modules, strict=False)
    shared = len([*itertools.takewhile(lambda parts: len({*parts}) == 1, columns)])
    return {".".join(module[: shared + 1]) for module in modules if len(module) > shared}


def _ambiguous(file: str, names: Sequence[str]) -> UserError:
    return UserError(
        f"{file} has weights in more than one entry ({', '.join(map(repr, names))}); choose"
        f" one: entry={names[0]}"
    )


def take_off_wrappers(file: str, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Take off the prefixes of wrapping modules; print which.

    Raises:
      UserError: if two names become equal.
    """
    taken = []
    parts = {key: key.split(".") for key in state_dict}
    for part in _INNER:
        if any(part in each[:-1] for each in parts.values()):
            taken.append(part)
            parts = {
                key: [*(p for p in each[:-1] if p != part), each[-1]] for key, each in parts.items()
            }
    while parts:
        inner = [each for key, each in parts.items() if key != _COUNTER]
        first = {each[0] for each in inner}
        if len(first) != 1 or min(map(len, inner)) < 2 or (part := first.pop()) not in _OUTER:
            break
        taken.append(part)
        parts = {key: each[1:] for key, each in parts.items() if key != _COUNTER}
    if taken:
        print(f"{file}: the names' prefix {'.'.join(taken) + '.'!r} is taken off", flush=True)
    found: dict[str, str] = {}
    for key, each in parts.items():
        if (other := found.setdefault(".".join(each), key)) != key:
            raise UserError(f"{file}: {other!r} and {key!r} are one name without their prefix")
    return {name: state_dict[key] for name, key in found.items()}


def take_off_prefix(
    state_dict: Mapping[str, Any], dialects: Iterable[Mapping[str, Any]]
) -> Mapping[str, Any]:
    """Return the weights without a common prefix before names that a dialect knows.

    They are returned as they are if some names are known without one. Names with other prefixes
    are left out, and that is printed.
    """
    known = set().union(*dialects)
    if not all(isinstance(key, str) for key in state_dict) or known & state_dict.keys():
        return state_dict
    found: dict[str, int] = {}
    for key in state_dict:
        for dot in (match.end() for match in re.finditer(r"\.", key)):
            if key[dot:] in known:
                found[key[:dot]] = found.get(key[:dot], 0) + 1
    if not found:
        return state_dict
    # Of equally good ones, no average.
    prefix = max(found, key=lambda p: (found[p], not _AVERAGE.fullmatch(p.removesuffix("."))))
    rest = [key for key in state_dict if not key.startswith(prefix)]
    told = f"; {len(rest)} others, such as {rest[0]!r}, are not read" if rest else ""
    print(f"the names' prefix {prefix!r} is taken off{told}", flush=True)
    return {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
