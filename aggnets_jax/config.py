"""Configs of runs: files with overrides, resolved against `configs/default.py` and checked."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from aggnets_jax.config_fields import files
from aggnets_jax.config_fields.fields import FREE_FORM as FREE_FORM
from aggnets_jax.config_fields.fields import LENGTHS, flatten, locate, parse, plain, set_field
from aggnets_jax.config_fields.fields import parse_value as parse_value
from aggnets_jax.config_fields.files import configs_folder as configs_folder
from aggnets_jax.config_fields.files import default_config as default_config
from aggnets_jax.config_fields.plugins import import_installed, import_plugins
from aggnets_jax.errors import UserError, one_line, unknown

# Fields that may change when a run goes on, since they change no result.
CHANGEABLE = (
    *("checkpoint_every_steps", "data.data_dir", "file", "keep_checkpoints", "plugins"),
    *(
        "profile_steps",
        "trackers",
        "tracker_args",
        "paper.error",
        "paper.error_top5",
        "paper.remark",
        "paper.source",
    ),
)

# Fields that an evaluation may change, since they change no result but by rounding.
OF_EVALUATION = ("data.data_dir", "data.resident", "eval_batch_size")

_ONE_LENGTH = "set one of config.total_steps and config.total_epochs, the other None"

# Bounds of numbers: the lower one is allowed, the upper one is not.
_RANGES = {
    (1, 2**31, "at least 1 and below 2**31"): (
        *("total_steps", "log_every_steps", "eval_every_steps", "checkpoint_every_steps"),
        *("keep_checkpoints", "num_seeds"),
    ),
    (1, 2**24, "at least 1 and below 2**24"): (
        *("batch_size", "eval_batch_size", "accumulation_steps"),
    ),
    (0, 2**31, "at least 0 and below 2**31"): (
        *("lr_batch_size", "steps_per_dispatch", "skip_nonfinite_steps", "slices"),
    ),
    (0, float("inf"), "at least 0 and finite"): (
        *("lr", "weight_decay", "grad_clip_norm", "strength", "sam_radius"),
    ),
    (0, 1, "in [0, 1)"): ("momentum", "label_smoothing", "ema_decay"),
}

_CHOICES = {
    "task": ("classification", "detection", "multilabel", "link_weights"),
    "dtype": ("float32", "bfloat16"),
    "weight_decay_on": ("all", "kernels"),
    "sharding": ("replicated", "fsdp"),
    "label_smoothing_over": ("all", "others"),
    "data.damaged": ("stop", "skip"),
    # Those of `connectivity.execution.REMAT`, without JAX.
    "model.remat": ("auto", "none", "layer", "norm"),
}


def recipe(name: str) -> ml_collections.ConfigDict:
    """Return the fields that `configs/recipes/NAME.py` sets, for a config that extends it.

    Raises:
      UserError: if there is no such recipe.
    """
    recipes = {file.stem: file for file in (configs_folder() / "recipes").glob("*.py")}
    if name not in recipes:
        raise unknown("recipe", name, recipes)
    return files.given(recipes[name], files.read(recipes[name]))


def rows(file: str | Path) -> dict[str, dict[str, Any]]:
    """Return the rows of a config file's sweep: {row: {dotted name of a field: value}}.

    The file's `sweep()` yields them as pairs; a file without one has no rows.

    Raises:
      UserError: if the file can't be read, or a row comes twice.
    """
    path, _ = files.find(str(file))
    return files.rows(path, files.read(path))


def load(file: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """Read a config file, or a row of its sweep, and apply overrides.

    A field that refers to another (`get_ref`) follows the other's change by row or override.

    Args:
      file: Python file with a `get_config()`; with a row, "FILE:ROW". If `get_config` has an
        argument, "FILE:TEXT" gives it the text.
      overrides: texts such as "lr=0.2" or "model.topology_args.base=3".

    Raises:
      UserError: for a file without a config or without that row, for a field that is unknown or
        ill-typed, and for a required field without a value.
    """
    path, row = files.find(file)
    module = files.read(path)
    allowed = files.rows(path, module)
    if allowed and not row:
        raise UserError(f"{path} has several rows; give {path}:ROW, ROW being {', '.join(allowed)}")
    if row and allowed and row not in allowed:
        raise unknown(f"row of {path}", row, allowed)
    if row and not allowed and not files.takes_text(module):
        raise UserError(f"{path} has no rows; give --config={path}")
    given = files.given(path, module, "" if allowed else row)
    try:
        plain(given, missing=[])
    except TypeError as error:  # of ml_collections, which sorts the keys
        raise UserError(f"{path}: keys of a config must be names: {one_line(error)}") from error
    changes = dict(allowed.get(row, {}))
    for name, value in changes.items():
        _change(given, name, value)
    changed = dict(map(_parsed, overrides))
    if all(changed.get(length) is not None for length in LENGTHS):
        raise UserError(_ONE_LENGTH)
    if "model.name" in changed and not any(name.startswith("model.args") for name in changed):
        _check_network_kept(file, _merged(given, changes, missing := []).model, changed, missing)
    for name, value in changed.items():
        _change(given, name, value)
    config = _merged(given, {**changes, **changed})
    config.file = file
    if config.plugins:
        import_plugins(config.plugins, path.parent)
    check(config)
    return config


def _check_network_kept(
    file: str,
    before: ml_collections.ConfigDict,
    changed: Mapping[str, Any],
    missing: Sequence[str],
) -> None:
    """Raise `UserError` if arguments of a file's network are left for another network."""
    renamed = changed["model.name"] != before.name and "model.name" not in missing
    if renamed and before.args:
        raise UserError(
            f"config.model.args of {file} ({', '.join(before.args)}) are for {before.name}; with"
            " another network set them, too: --config.model.args={} for none"
        )


def override_evaluation(config: ml_collections.ConfigDict, overrides: Sequence[str]) -> None:
    """Apply overrides to the config of a run that is evaluated.

    Raises:
      UserError: for a field that is not one of `OF_EVALUATION`, or ill-typed.
    """
    for override in overrides:
        name, value = _parsed(override)
        if name not in OF_EVALUATION:
            raise UserError(
                f"an evaluation uses the run's config.{name}; it may set {', '.join(OF_EVALUATION)}"
            )
        set_field(config, name, value)
    check(config)


def _parsed(override: str) -> tuple[str, Any]:
    """Return the field and the value of an override such as "lr=0.2"."""
    name, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"override {override!r} must have the form --config.field=value")
    return name, parse(default_config(), name, text)


def resolve(given: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """Return the default config with the fields of `given`, checked.

    Raises:
      UserError: for a field that is unknown or ill-typed, a value out of range, and a required
        field without a value.
    """
    if not isinstance(given, Mapping | ml_collections.ConfigDict):
        raise UserError(f"a config must be a mapping of fields, got {given!r}")
    config = _merged(given, {})
    import_installed(config.plugins)  # one that is missing may not be needed
    check(config)
    return config


def _change(given: ml_collections.ConfigDict, path: str, value: Any) -> None:
    """Change a field that a file gives, so that the fields that refer to it follow."""
    *groups, name = path.split(".")
    for step in groups:
        given = given.get(step) if isinstance(given, ml_collections.ConfigDict) else None
    if not isinstance(given, ml_collections.ConfigDict) or name not in given:
        return
    set_field(default_config(), path, value)  # raises if there is no such field, or no such value
    with given.ignore_type():
        given[name] = value
        for other in LENGTHS:
            if path in LENGTHS and other != path and other in given and value is not None:
                given[other] = None


def _merged(
    given: Mapping[str, Any], changes: Mapping[str, Any], missing: list[str] | None = None
) -> ml_collections.ConfigDict:
    """Return the default config with the fields of `given` and then `changes`, not checked.

    Required fields without a value are added to `missing`, or raise `UserError` without it.
    """
    config, required = default_config(), []
    fields = flatten(plain(given, missing=required))
    changed = {*changes, *(LENGTHS if {*changes} & {*LENGTHS} else ())}
    required = [name for name in required if name not in changed]
    if missing is not None:
        missing += required
    elif required:
        raise UserError(
            f"the config requires a value of config.{', config.'.join(required)}:"
            f" give --config.{required[0]}=VALUE"
        )
    if all(fields.get(length) is not None for length in LENGTHS):
        # A changed copy of the default config still has the default's length.
        if fields["total_steps"] != config.total_steps:
            raise UserError(_ONE_LENGTH)
        del fields["total_steps"]
    for path, value in [*fields.items(), *changes.items()]:
        set_field(config, path, value)
    return config


def to_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return a config as JSON data, which `resolve` takes back."""
    return json.loads(json.dumps(plain(config)))


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return {field: (old, new)} for two configs from `to_json`, without `CHANGEABLE` fields."""
    old, new = flatten(old), flatten(new)
    return {
        name: (old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and name not in CHANGEABLE
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return `changes` as texts; fields that an older version lacked have their defaults.

    Links of users' patterns are compared if `new` has them: they come when a run is set up.

    Raises:
      UserError: if `old` is no config.
    """
    changed = changes(to_json(resolve(old)), new)
    patterns = ["model.patterns: other links"] if changed.pop("model.patterns", None) else []
    texts = [f"{name}: {was!r} -> {now!r}" for name, (was, now) in changed.items()]
    return texts + (patterns if new.get("model", {}).get("patterns") else [])


def total_steps(config: ml_collections.ConfigDict, num_train: int) -> int:
    """Return the number of updates in a run on `num_train` training examples.

    Raises:
      UserError: if the epochs of the config are less than half a step, or 2**31 steps or more.
    """
    if config.total_steps is not None:
        return config.total_steps
    steps = round(config.total_epochs * num_train / config.batch_size)
    if steps >= 2**31:
        raise UserError(
            f"config.total_epochs {config.total_epochs:g} are {steps:.3g} steps; allowed: below"
            " 2**31"
        )
    if steps:
        return steps
    raise UserError(
        f"config.total_epochs {config.total_epochs:g} is less than half a step: {num_train} images"
        f" are {num_train / config.batch_size:.3g} batches of {config.batch_size}; set"
        " config.total_steps, a smaller config.batch_size, or at least"
        f" {config.batch_size / max(1, num_train):.3g} epochs"
    )


def check_profile_steps(config: ml_collections.ConfigDict, last: int) -> None:
    """Raise `UserError` unless the steps to profile are among the steps 1 to `last`."""
    if profiled := config.profile_steps:
        whole = len(profiled) == 2 and all(type(step) is int for step in profiled)
        if not (whole and 0 < profiled[0] <= profiled[1] <= last):
            end = "the last" if last == 2**31 else f"step {last}, the last"
            allowed = f"(first, last), from step 1 to {end}"
            raise UserError(f"config.profile_steps must be {allowed}, got {profiled}")


def model_arguments(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return the keyword arguments for `create_model` in `config.model`, besides the name."""
    fields = plain(config.model)
    apart = ("name", "args", "patterns")
    named = {k: v for k, v in fields.items() if k not in apart and v is not None}
    arguments = {**named, **fields["args"]}
    if not fields["patterns"]:
        return arguments
    from aggnets_jax.connectivity.stored_patterns import with_stored

    return with_stored(arguments, fields["patterns"])


def check(config: ml_collections.ConfigDict) -> None:
    """Raise `UserError` for values that fit no run, whatever the data and the devices."""
    for (low, end, bounds), names in _RANGES.items():
        for name in names:
            value = config[name]
            if value is not None and not low <= value < end:
                raise UserError(f"config.{name} must be {bounds}, got {value}")
    if config.skip_nonfinite_steps >= config.log_every_steps:
        raise UserError("config.skip_nonfinite_steps must be less than config.log_every_steps")
    steps, epochs = config.total_steps, config.total_epochs
    if (steps is None) == (epochs is None):
        raise UserError(_ONE_LENGTH)
    if epochs is not None and not 0 < epochs < 2**31:
        raise UserError(f"config.total_epochs must be above 0 and below 2**31, got {epochs}")
    check_profile_steps(config, steps or 2**31)
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
    if config.batch_size == config.accumulation_steps > 1:
        raise UserError(
            f"config.accumulation_steps {config.accumulation_steps} leaves one image in each part"
            f" of a batch, too few to normalise by; allowed: at most {config.batch_size // 2}"
        )
    if config.ema_warmup and not config.ema_decay:
        raise UserError("config.ema_warmup is for averaged weights: set config.ema_decay, too")
    if config.progressive and config.num_seeds > 1:
        raise UserError("config.progressive is for one seed at a time: set config.num_seeds=1")
    if not 0 < config.layer_decay <= 1:
        raise UserError(f"config.layer_decay must be in (0, 1], got {config.layer_decay}")
    for name in ("mean", "std"):
        if not all(type(v) in (int, float) and abs(v) < 2.0**127 for v in config.data[name]):
            raise UserError(f"config.data.{name} must be finite numbers, got {config.data[name]}")
    if not re.fullmatch(r"global(_shifted)?|device|group:[1-9]\d{0,8}", config.batch_norm):
        allowed = ("global", "global_shifted", "device", "group:N")
        raise unknown("config.batch_norm", config.batch_norm, allowed)
    for path, allowed in _CHOICES.items():
        group, name = locate(config, path)
        if group[name] not in allowed:
            raise unknown(f"config.{path}", group[name], allowed)
    for name, source in (("num_classes", "data"), ("input_shape", "data"), ("dtype", "config")):
        if name in config.model.args:
            raise UserError(f"config.model.args.{name} can't be set: the {source} gives it")
