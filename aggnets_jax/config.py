"""Configs: what a run is told, resolved against `configs/default.py` and checked."""

import ast
import difflib
import importlib.util
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_collections

from aggnets_jax.config_check import check
from aggnets_jax.errors import UserError, one_line, unknown
from aggnets_jax.files import is_line

# Fields whose values are arguments of functions, checked where these are called.
FREE_FORM = (
    "model.topology_args",
    "model.args",
    "schedule_args",
    "strength_args",
    "task_args",
    "data.policy_args",
)

# Fields that may change when a run goes on: they say where, not what.
CHANGEABLE = (
    "checkpoint_every_steps",
    "data.data_dir",
    "file",
    "keep_checkpoints",
    "paper.error",
    "paper.error_top5",
    "paper.remark",
    "paper.source",
    "profile_steps",
)

# The length of a run: setting one unsets the other.
LENGTHS = ("total_steps", "total_epochs")

_DEEPEST = 50  # levels of groups, lists and mappings; Python gives up at some hundreds


def default_config() -> ml_collections.ConfigDict:
    """The config in `configs/default.py`; unknown fields can't be added to it."""
    config = _import(configs_folder() / "default.py").get_config()
    config.lock()
    return config


def configs_folder() -> Path:
    """The folder of the config files that come with the package."""
    # A wheel carries the configs inside the package; a checkout has them beside it.
    inside, beside = (folder / "configs" for folder in Path(__file__).parents[:2])
    return inside if inside.is_dir() else beside


def recipe(name: str) -> ml_collections.ConfigDict:
    """What `configs/recipes/NAME.py` says differs from the defaults, for others to differ from.

    Raises:
      UserError: if there is no such recipe.
    """
    files = {file.stem: file for file in (configs_folder() / "recipes").glob("*.py")}
    if name not in files:
        raise unknown("recipe", name, files)
    return _given(files[name])


def rows(file: str | Path) -> dict[str, dict[str, Any]]:
    """The rows of a config file's sweep: by name, what each sets, by dotted names of fields.

    They come from the file's `sweep()`, which yields pairs of a name and such a mapping; a file
    without one has no rows.

    Raises:
      UserError: if the file can't be read, or a name comes twice.
    """
    path = _existing(Path(file))
    sweep = getattr(_import(path), "sweep", None)
    if sweep is None:
        return {}
    pairs = _call(path, lambda: [(str(name), dict(changes)) for name, changes in sweep()])
    named = dict(pairs)
    if len(named) < len(pairs):
        raise UserError(f"{file}: sweep() yields a name twice")
    return named


def load(file: str, overrides: Iterable[str] = ()) -> ml_collections.ConfigDict:
    """Reads a config file, or a row of its sweep, and applies command-line overrides.

    Args:
      file: Python file with a `get_config()`; with a row, "FILE:ROW".
      overrides: texts such as "lr=0.2" or "model.topology_args.base=3".

    Raises:
      UserError: for a file without a config or without that row, and for a field that is unknown
        or ill-typed.
    """
    name, _, row = file.partition(".py:")
    path = _existing(Path(f"{name}.py" if row else file))
    config = resolve(_given(path))
    allowed = rows(path)
    if row and not allowed:
        raise UserError(f"{path} has no rows; give --config={path}")
    if allowed and not row:
        raise UserError(f"{path} has several rows; give {path}:ROW, ROW being {', '.join(allowed)}")
    if row and row not in allowed:
        raise unknown(f"row of {path}", row, allowed)
    for field, value in allowed.get(row, {}).items():
        _set(config, field, value)
    config.file = file
    before, overridden = config.model.copy_and_resolve_references(), set()
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"override {override!r} must have the form --config.field=value")
        _set(config, name, _parse(config, name, text))
        overridden.add(name)
    renamed = config.model.name != before.name and before.args
    # With them the named network would be another one.
    if renamed and not any(name.startswith("model.args") for name in overridden):
        raise UserError(
            f"config.model.args of {file} ({', '.join(before.args)}) are for {before.name}; with"
            " another network set them, too: --config.model.args={} for none"
        )
    check(config)
    return config


def resolve(given: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The default config with what `given` says, checked.

    Raises:
      UserError: for a field that is unknown or ill-typed, or a value out of range.
    """
    config = default_config()
    given = _flatten(_plain(given))
    if all(given.get(length) is not None for length in LENGTHS):
        # A changed copy of the default config still has the default's length.
        if given["total_steps"] != config.total_steps:
            raise UserError("set one of config.total_steps and config.total_epochs, the other None")
        del given["total_steps"]
    for path, value in given.items():
        _set(config, path, value)
    check(config)
    return config


def to_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The config as JSON data, which `resolve` takes back."""
    return json.loads(json.dumps(_plain(config)))


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Old and new values of the fields in which two configs (as of `to_json`) differ.

    Fields that change no result are left out.
    """
    old, new = _flatten(old), _flatten(new)
    return {
        name: (old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and name not in CHANGEABLE
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Fields that differ between two configs (as of `to_json`) and may not, as texts.

    A field that the old one lacks had its default: it is from before there was that field.

    Raises:
      UserError: if the old one is no config.
    """
    both = changes(to_json(resolve(old)), new)
    return [f"{name}: {was!r} -> {now!r}" for name, (was, now) in both.items()]


def total_steps(config: ml_collections.ConfigDict, num_train: int) -> int:
    """Updates in a run on `num_train` training examples, at least 1."""
    if config.total_steps is not None:
        return config.total_steps
    return max(1, round(config.total_epochs * num_train / config.batch_size))


def model_arguments(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Keyword arguments for `create_model` that `config.model` gives besides the name."""
    fields = _plain(config.model)
    named = {k: v for k, v in fields.items() if k not in ("name", "args") and v is not None}
    return {**named, **fields["args"]}


def _existing(path: Path) -> Path:
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")])
        hint = f"; nearest in {path.parent}: {', '.join(near)}" if near else ""
        raise UserError(f"no config file {path}{hint}")
    return path


def _given(path: Path) -> ml_collections.ConfigDict:
    """What a config file's `get_config()` returns."""
    given = _call(path, lambda: _import(path).get_config())
    if not isinstance(given, ml_collections.ConfigDict):
        raise UserError(
            f"{path}: get_config() must return a ConfigDict, not {type(given).__name__}"
        )
    return given


def _call(path: Path, function: Callable[[], Any]) -> Any:
    """Runs what a config file defines, which may fail in any way."""
    try:
        return function()
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{path}: {type(error).__name__}: {one_line(error)}") from error


def _import(file: Path) -> Any:
    if file.suffix != ".py":
        raise UserError(f"config file {file} is not a Python file")
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    _call(file, lambda: spec.loader.exec_module(module))
    return module


def _plain(value: Any, depth: int = 0) -> Any:
    """Nested ConfigDicts as dicts."""
    if depth > _DEEPEST:
        raise UserError(f"the config is nested too deeply; allowed: {_DEEPEST} levels")
    if isinstance(value, ml_collections.ConfigDict):
        value = value.to_dict()
    if isinstance(value, list | tuple):
        return type(value)(_plain(item, depth + 1) for item in value)
    if isinstance(value, Mapping):
        return {str(name): _plain(item, depth + 1) for name, item in value.items()}
    return value


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Fields by dotted names; the arguments in a free-form field stay together."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and prefix + name not in FREE_FORM:
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def _locate(config: ml_collections.ConfigDict, path: str) -> tuple[ml_collections.ConfigDict, str]:
    """The group that holds a field, and the field's name in it."""
    *groups, name = path.split(".")
    group = config
    for step in groups:
        if step not in group or not isinstance(group[step], ml_collections.ConfigDict):
            raise unknown("config field", path, _flatten(_plain(config)))
        group = group[step]
    if name not in group:
        raise unknown("config field", path, _flatten(_plain(config)))
    return group, name


def _set(config: ml_collections.ConfigDict, path: str, value: Any) -> None:
    value = _plain(value)
    for field in FREE_FORM:
        if path.startswith(f"{field}."):
            # --config.model.topology_args.base=3 adds one argument to those given already.
            group, name = _locate(config, field)
            given = _plain(group[name]) or {}
            if not isinstance(given, Mapping):
                raise UserError(f"config.{path} can't be set: config.{field} differs by stage")
            value = {**given, path.removeprefix(f"{field}."): value}
            path = field
    group, name = _locate(config, path)
    if path in FREE_FORM:
        may_differ = path == "model.topology_args" and isinstance(value, list | tuple)
        mappings = value if may_differ else [{} if value is None else value]
        if not all(isinstance(mapping, Mapping) for mapping in mappings):
            raise UserError(f"config.{path} must be a mapping of arguments, got {value!r}")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UserError(f"config.{path} must be plain data: {one_line(error)}") from error
        if value is None and path != "model.topology_args":
            value = {}
        try:
            with group.ignore_type():
                group[name] = value
        except (AttributeError, ValueError) as error:  # a dot in an argument's name; __class__
            raise UserError(f"config.{path}: {one_line(error)}") from error
        return
    if isinstance(group[name], ml_collections.ConfigDict):
        raise UserError(f"config.{path} is a group of fields, got {value!r}")
    wanted = group.get_type(name)
    if wanted is tuple and isinstance(value, list):
        value = tuple(value)
    if wanted is float and type(value) is int and abs(value) < 2**1023:  # a larger one is no float
        value = float(value)
    fits = isinstance(value, wanted) and not (isinstance(value, bool) and wanted is int)
    if value is None:
        fits = path in LENGTHS or _flatten(_plain(default_config()))[path] is None
    if not fits:
        raise UserError(f"config.{path} must be of type {wanted.__name__}, got {value!r}")
    if isinstance(value, str) and not is_line(value):
        raise UserError(f"config.{path} must be text of one line, got {value!r}")
    group[name] = value
    if path in LENGTHS and value is not None:
        for other in LENGTHS:
            if other != path:
                config[other] = None


def _parse(config: ml_collections.ConfigDict, path: str, text: str) -> Any:
    """The value that a text on the command line stands for."""
    if not any(path.startswith(f"{field}.") for field in FREE_FORM):
        group, name = _locate(config, path)
        if group.get_type(name) is float and text.lower() in ("nan", "inf", "-inf"):
            return float(text)
        if group.get_type(name) is str and text != "None":
            return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # it raises them all
        return {"true": True, "false": False}.get(text.lower(), text)
