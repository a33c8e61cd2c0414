"""Configs of runs: files with overrides, resolved against `configs/default.py` and checked."""

import ast
import difflib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from aggnets_jax.arguments import choose
from aggnets_jax.errors import UserError, one_line, unknown
from aggnets_jax.files import is_line

# Fields with arguments of functions, which are checked where the functions are called.
FREE_FORM = (
    *("model.topology_args", "model.args", "data.policy_args"),
    *("schedule_args", "strength_args", "task_args"),
)

# Fields that may change when a run goes on, since they change no result.
CHANGEABLE = (
    *("checkpoint_every_steps", "data.data_dir", "file", "keep_checkpoints", "profile_steps"),
    *("paper.error", "paper.error_top5", "paper.remark", "paper.source"),
)

# The length of a run: setting one unsets the other.
LENGTHS = ("total_steps", "total_epochs")

_DEEPEST = 50  # levels of groups, lists and mappings; Python gives up at some hundreds

# Bounds of numbers: the lower one is allowed, the upper one is not.
_RANGES = {
    (1, 2**31, "at least 1 and below 2**31"): (
        *("total_steps", "log_every_steps", "eval_every_steps", "checkpoint_every_steps"),
        *("keep_checkpoints", "num_seeds", "batch_size", "eval_batch_size", "accumulation_steps"),
    ),
    (0, 2**31, "at least 0 and below 2**31"): (
        *("lr_batch_size", "steps_per_dispatch", "skip_nonfinite_steps"),
    ),
    (0, float("inf"), "at least 0 and finite"): (
        *("lr", "weight_decay", "grad_clip_norm", "strength"),
    ),
    (0, 1, "in [0, 1)"): ("momentum", "label_smoothing", "ema_decay"),
}

_CHOICES = {
    "task": ("classification", "detection", "link_weights"),
    "dtype": ("float32", "bfloat16"),
    "weight_decay_on": ("all", "kernels"),
    "batch_norm": ("global", "device"),
    "sharding": ("replicated", "fsdp"),
    "label_smoothing_over": ("all", "others"),
    "data.damaged": ("stop", "skip"),
}


def default_config() -> ml_collections.ConfigDict:
    """Return the config in `configs/default.py`, locked: it takes no unknown fields."""
    config = _import(configs_folder() / "default.py").get_config()
    config.lock()
    return config


def configs_folder() -> Path:
    """Return the folder of the config files that come with the package."""
    # A wheel carries the configs inside the package; a checkout has them beside it.
    inside, beside = (folder / "configs" for folder in Path(__file__).parents[:2])
    return inside if inside.is_dir() else beside


def recipe(name: str) -> ml_collections.ConfigDict:
    """Return the fields that `configs/recipes/NAME.py` sets, for a config that extends it.

    Raises:
      UserError: if there is no such recipe.
    """
    files = {file.stem: file for file in (configs_folder() / "recipes").glob("*.py")}
    if name not in files:
        raise unknown("recipe", name, files)
    return _given(files[name])


def rows(file: str | Path) -> dict[str, dict[str, Any]]:
    """Return the rows of a config file's sweep: {row: {dotted name of a field: value}}.

    The file's `sweep()` yields them as pairs; a file without one has no rows.

    Raises:
      UserError: if the file can't be read, or a row comes twice.
    """
    path = _existing(Path(file))
    sweep = getattr(_import(path), "sweep", None)
    if sweep is None:
        return {}
    pairs = _call(path, lambda: [(str(name), dict(changes)) for name, changes in sweep()])
    if len(dict(pairs)) < len(pairs):
        raise UserError(f"{file}: sweep() yields a name twice")
    return dict(pairs)


def load(file: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """Read a config file, or a row of its sweep, and apply overrides.

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
    before = config.model.copy_and_resolve_references()
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"override {override!r} must have the form --config.field=value")
        _set(config, name, _parse(config, name, text))
    renamed = config.model.name != before.name
    # The file's arguments are for the file's network.
    if renamed and before.args and not any(text.startswith("model.args") for text in overrides):
        raise UserError(
            f"config.model.args of {file} ({', '.join(before.args)}) are for {before.name}; with"
            " another network set them, too: --config.model.args={} for none"
        )
    check(config)
    return config


def resolve(given: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """Return the default config with the fields of `given`, checked.

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
    """Return a config as JSON data, which `resolve` takes back."""
    return json.loads(json.dumps(_plain(config)))


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return {field: (old, new)} for two configs from `to_json`, without `CHANGEABLE` fields."""
    old, new = _flatten(old), _flatten(new)
    return {
        name: (old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and name not in CHANGEABLE
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return `changes` as texts; fields that an older version lacked have their defaults.

    Raises:
      UserError: if `old` is no config.
    """
    changed = changes(to_json(resolve(old)), new).items()
    return [f"{name}: {was!r} -> {now!r}" for name, (was, now) in changed]


def total_steps(config: ml_collections.ConfigDict, num_train: int) -> int:
    """Return the number of updates in a run on `num_train` training examples, at least 1."""
    if config.total_steps is not None:
        return config.total_steps
    return max(1, round(config.total_epochs * num_train / config.batch_size))


def model_arguments(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return the keyword arguments for `create_model` in `config.model`, besides the name."""
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
    """Return the result of a config file's `get_config()`."""
    given = _call(path, lambda: _import(path).get_config())
    if not isinstance(given, ml_collections.ConfigDict):
        kind = type(given).__name__
        raise UserError(f"{path}: get_config() must return a ConfigDict, not {kind}")
    return given


def _call(path: Path, function: Callable[[], Any]) -> Any:
    """Call a function of a config file, which may fail in any way."""
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
    """Return nested ConfigDicts as dicts."""
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
    """Return fields by dotted names; the arguments in a free-form field stay together."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and prefix + name not in FREE_FORM:
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def _locate(config: ml_collections.ConfigDict, path: str) -> tuple[ml_collections.ConfigDict, str]:
    """Return the group that holds a field, and the field's name in it."""
    *groups, name = path.split(".")
    group = config
    for step in groups:
        group = group.get(step) if isinstance(group, ml_collections.ConfigDict) else None
    if not isinstance(group, ml_collections.ConfigDict) or name not in group:
        raise unknown("config field", path, _flatten(_plain(config)))
    return group, name


def _set(config: ml_collections.ConfigDict, path: str, value: Any) -> None:
    """Set a field, or one argument in a free-form field, to a value of the field's type."""
    value = _plain(value)
    for field in FREE_FORM:
        if path == field or path.startswith(f"{field}."):
            _set_arguments(config, field, path, value)
            return
    group, name = _locate(config, path)
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
    if path in LENGTHS and value is not None:
        config.update(dict.fromkeys(LENGTHS))
    group[name] = value


def _set_arguments(config: ml_collections.ConfigDict, field: str, path: str, value: Any) -> None:
    """Set all arguments in a free-form field, or add the one that `path` names to them."""
    group, name = _locate(config, field)
    if path != field:
        given = _plain(group[name]) or {}
        if not isinstance(given, Mapping):
            raise UserError(f"config.{path} can't be set: config.{field} differs by stage")
        value = {**given, path.removeprefix(f"{field}."): value}
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


def _parse(config: ml_collections.ConfigDict, path: str, text: str) -> Any:
    """Return the value of a text on the command line."""
    if not any(path.startswith(f"{field}.") for field in FREE_FORM):
        group, name = _locate(config, path)
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


def check(config: ml_collections.ConfigDict) -> None:
    """Raise `UserError` for values that fit no run, whatever the data and the devices."""
    # Imports JAX, which commands that only read configs can do without.
    from aggnets_jax.connectivity.execution import REMAT

    for (low, end, bounds), names in _RANGES.items():
        for name in names:
            value = config[name]
            if value is not None and not low <= value < end:
                raise UserError(f"config.{name} must be {bounds}, got {value}")
    if config.skip_nonfinite_steps >= config.log_every_steps:
        raise UserError("config.skip_nonfinite_steps must be less than config.log_every_steps")
    steps, epochs = config.total_steps, config.total_epochs
    if (steps is None) == (epochs is None):
        raise UserError("set one of config.total_steps and config.total_epochs")
    if epochs is not None and not 0 < epochs < 2**31:
        raise UserError(f"config.total_epochs must be above 0 and below 2**31, got {epochs}")
    if profiled := config.profile_steps:
        whole = len(profiled) == 2 and all(type(step) is int for step in profiled)
        if not (whole and 0 < profiled[0] <= profiled[1] <= (steps or 2**31)):
            allowed = "(first, last), from step 1 to the last"
            raise UserError(f"config.profile_steps must be {allowed}, got {profiled}")
    if config.num_seeds > 10_000:  # memory and results hold a list of them
        raise UserError(f"config.num_seeds must be at most 10000, got {config.num_seeds}")
    last = 2**31 - config.num_seeds
    if not 0 <= config.seed <= last:
        raise UserError(f"config.seed must be between 0 and {last}, got {config.seed}")
    if config.batch_size % config.accumulation_steps:
        raise UserError(
            f"config.batch_size {config.batch_size} is not divisible by"
            f" config.accumulation_steps {config.accumulation_steps}"
        )
    for name in ("mean", "std"):
        if not all(type(v) in (int, float) and abs(v) < 2.0**127 for v in config.data[name]):
            raise UserError(f"config.data.{name} must be finite numbers, got {config.data[name]}")
    for path, allowed in _CHOICES.items():
        group, name = _locate(config, path)
        if group[name] not in allowed:
            raise unknown(f"config.{path}", group[name], allowed)
    for name, source in (("num_classes", "data"), ("input_shape", "data"), ("dtype", "config")):
        if name in config.model.args:
            raise UserError(f"config.model.args.{name} can't be set: it is that of the {source}")
    choose("config.model.remat", REMAT, config.model.remat)
