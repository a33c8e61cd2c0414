"""Config files: running their `get_config()`, with any error as one line."""

import difflib
import functools
import importlib.util
import inspect
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_collections

from aggnets_jax.errors import UserError, one_line


def default_config() -> ml_collections.ConfigDict:
    """Return the config in `configs/default.py`, locked: it takes no unknown fields."""
    config = _defaults().get_config()
    config.lock()
    return config


@functools.cache
def _defaults() -> ModuleType:
    return read(configs_folder() / "default.py")


def configs_folder() -> Path:
    """Return the folder of the config files that come with the package."""
    # A wheel carries the configs inside the package; a checkout has them beside it.
    inside, beside = (folder / "configs" for folder in Path(__file__).parents[1:3])
    return inside if inside.is_dir() else beside


def find(name: str) -> tuple[Path, str]:
    """Return the config file of "FILE" or "FILE:TEXT", and the text; "" without one.

    `configs/...` without such a folder is a file that comes with the package.

    Raises:
      UserError: if there is no such file.
    """
    file, _, text = name.partition(".py:")
    path = Path(f"{file}.py" if text else name)
    if path.parts[:1] == ("configs",) and not Path("configs").exists():
        path = configs_folder().joinpath(*path.parts[1:])
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")])
        hint = f"; nearest in {path.parent}: {', '.join(near)}" if near else ""
        raise UserError(f"no config file {path}{hint}")
    return path, text


def read(path: Path) -> ModuleType:
    """Run a config file, and return it as a module.

    Raises:
      UserError: if it is no Python file, or fails; the message names the line.
    """
    if path.suffix != ".py":
        raise UserError(f"config file {path} is not a Python file")
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    # Not by the loader: it keeps byte code, which a change within the same second leaves as it is.
    _call(path, lambda: exec(compile(path.read_bytes(), str(path), "exec"), vars(module)))
    return module


def takes_text(module: ModuleType) -> bool:
    """Return whether `get_config` has an argument: the text after the colon in "FILE:TEXT"."""
    function = getattr(module, "get_config", None)
    return callable(function) and bool(inspect.signature(function).parameters)


def given(path: Path, module: ModuleType, text: str = "") -> ml_collections.ConfigDict:
    """Return the result of a config file's `get_config()`; its references are kept.

    Raises:
      UserError: if it fails, or returns no mapping.
    """
    arguments = [text] if text and takes_text(module) else []
    config = _call(path, lambda: module.get_config(*arguments))
    if not isinstance(config, Mapping | ml_collections.ConfigDict):
        kind = type(config).__name__
        raise UserError(f"{path}: get_config() must return a ConfigDict or a dict, not {kind}")
    # Also of a FrozenConfigDict, or a locked one.
    return _call(path, lambda: ml_collections.ConfigDict(config))


def rows(path: Path, module: ModuleType) -> dict[str, dict[str, Any]]:
    """Return the rows of a config file's `sweep()`, none without one.

    Raises:
      UserError: if it fails, or a row comes twice.
    """
    sweep = getattr(module, "sweep", None)
    if sweep is None:
        return {}
    pairs = _call(path, lambda: [(str(name), dict(changes)) for name, changes in sweep()])
    if len(dict(pairs)) < len(pairs):
        raise UserError(f"{path}: sweep() yields a name twice")
    return dict(pairs)


def _call(path: Path, function: Callable[[], Any]) -> Any:
    try:
        return function()
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        if isinstance(error, SyntaxError) and error.filename == str(path):
            lines = [error.lineno]
        where = f"{path}, line {lines[-1]}" if lines else str(path)
        raise UserError(f"{where}: {type(error).__name__}: {one_line(error)}") from error
