"""Fields of configs: their values as plain data, and setting them by dotted names."""

import ast
import functools
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from ml_collections.config_dict import FieldReference, RequiredValueError

from aggnets_jax.config_fields.files import default_config
from aggnets_jax.errors import UserError, one_line, unknown
from aggnets_jax.files import is_line

# Fields with arguments of functions, which are checked where the functions are called.
FREE_FORM = (
    *("model.topology_args", "model.args", "model.patterns", "data.policy_args"),
    *("loss_args", "optimizer_args", "schedule_args", "strength_args", "task_args", "tracker_args"),
    "teacher_args",
)

# The length of a run: setting one unsets the other.
LENGTHS = ("total_steps", "total_epochs")

_DEEPEST = 50  # levels of groups, lists and mappings; Python gives up at some hundreds


def plain(value: Any, depth: int = 0, *, missing: list[str] | None = None, name: str = "") -> Any:
    """Return nested ConfigDicts as dicts, with the values of references; paths become texts.

    Numbers and arrays of NumPy become Python's numbers and lists.
    Required fields without a value are left out, and their names added to `missing`.
    """
    if depth > _DEEPEST:
        raise UserError(f"the config is nested too deeply; allowed: {_DEEPEST} levels")
    inside = functools.partial(plain, depth=depth + 1, missing=missing)
    if isinstance(value, ml_collections.ConfigDict):
        value = dict(value.items(preserve_field_references=True))
    if isinstance(value, FieldReference):
        return inside(_referred(value, name), name=name)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    # Numbers and arrays of NumPy and JAX, without an import of JAX.
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        return inside(value.tolist(), name=name)
    if isinstance(value, list | tuple):
        return type(value)(inside(item, name=name) for item in value)
    if isinstance(value, Mapping):
        fields = {}
        for key, item in value.items():
            path = f"{name}.{key}".lstrip(".")
            try:
                fields[str(key)] = inside(item, name=path)
            except RequiredValueError:
                if missing is None:
                    raise UserError(f"config.{path} requires a value") from None
                missing.append(path)
        return fields
    return value


def _referred(reference: FieldReference, name: str) -> Any:
    """Return the value of a reference, whose operations may fail."""
    try:
        return reference.get()
    except RequiredValueError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"config.{name} can't follow the field it refers to: {reason}") from error


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return fields by dotted names; the arguments in a free-form field stay together."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and prefix + name not in FREE_FORM:
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def locate(config: ml_collections.ConfigDict, path: str) -> tuple[ml_collections.ConfigDict, str]:
    """Return the group that holds a field, and the field's name in it."""
    *groups, name = path.split(".")
    group = config
    for step in groups:
        group = group.get(step) if isinstance(group, ml_collections.ConfigDict) else None
    if not isinstance(group, ml_collections.ConfigDict) or name not in group:
        raise unknown("config field", path, flatten(plain(config)))
    return group, name


def set_field(config: ml_collections.ConfigDict, path: str, value: Any) -> None:
    """Set a field, or one argument in a free-form field, to a value of the field's type."""
    value = plain(value)
    for field in FREE_FORM:
        if path == field or path.startswith(f"{field}."):
            _set_arguments(config, field, path, value)
            return
    group, name = locate(config, path)
    if path == "model.topology" and value is not None and not isinstance(value, str):
        from aggnets_jax.connectivity.stored_patterns import as_data

        value = as_data(value)
    if isinstance(group[name], ml_collections.ConfigDict):
        raise UserError(f"config.{path} is a group of fields, got {value!r}")
    wanted = group.get_type(name)
    if wanted is tuple and isinstance(value, list | str):
        value = (value,) if isinstance(value, str) else tuple(value)
    if wanted is float and type(value) is int and abs(value) < 2**1023:  # a larger one is no float
        value = float(value)
    fits = isinstance(value, wanted) and not (isinstance(value, bool) and wanted is int)
    if value is None:
        default, _ = locate(default_config(), path)
        fits = path in LENGTHS or default[name] is None
    if not fits:
        raise UserError(f"config.{path} must be of type {wanted.__name__}, got {value!r}")
    if isinstance(value, str) and not is_line(value):
        raise UserError(f"config.{path} must be text of one line, got {value!r}")
    if path in LENGTHS and value is not None:
        config.update(dict.fromkeys(LENGTHS))
    group[name] = value


def _set_arguments(config: ml_collections.ConfigDict, field: str, path: str, value: Any) -> None:
    """Set all arguments in a free-form field, or add the one that `path` leads to."""
    group, name = locate(config, field)
    if path != field:
        given = plain(group[name]) or {}
        if not isinstance(given, Mapping):
            raise UserError(f"config.{path} can't be set: config.{field} differs by stage")
        value = _with_argument(given, path.removeprefix(f"{field}.").split("."), value)
    by_stage = field == "model.topology_args"
    if value is None and not by_stage:
        value = {}
    mappings = value if by_stage and isinstance(value, list | tuple) else [value]
    if value is not None and not all(isinstance(mapping, Mapping) for mapping in mappings):
        raise UserError(f"config.{field} must be a mapping of arguments, got {value!r}")
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"config.{field} must be plain data: {one_line(error)}") from error
    try:
        with group.ignore_type():
            group[name] = value
    except (AttributeError, ValueError) as error:  # a dot in an argument's name; __class__
        raise UserError(f"config.{field}: {one_line(error)}") from error


def _with_argument(given: Mapping[str, Any], names: Sequence[str], value: Any) -> dict[str, Any]:
    """Return arguments with one more, which the names lead to through mappings."""
    name, *inner = names
    if inner:
        group = given.get(name)
        value = _with_argument(group if isinstance(group, Mapping) else {}, inner, value)
    return {**given, name: value}


def parse(config: ml_collections.ConfigDict, path: str, text: str) -> Any:
    """Return the value of a text on the command line; raise `UserError` if it is empty."""
    if not any(path.startswith(f"{field}.") for field in FREE_FORM):
        group, name = locate(config, path)
        if not text and group[name] != "":  # a variable of the shell that is not set
            raise UserError(f"config.{path} is empty")
        if group.get_type(name) is float and text.lower() in ("nan", "inf", "-inf"):
            return float(text)
        if group.get_type(name) is str and text != "None":
            return text
    return parse_value(text)


def parse_value(text: str) -> Any:
    """Return the Python literal that a text is; a text that is none stays text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return {"true": True, "false": False}.get(text.lower(), text)
