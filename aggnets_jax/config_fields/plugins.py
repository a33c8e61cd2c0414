"""Modules of users that register patterns, aggregations, units, families and data sets.

A config names them (`config.plugins = ("my_networks",)`). For commands without a config, the
environment variable AGGNETS_PLUGINS names them, separated by commas.
"""

import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from aggnets_jax.errors import UserError, one_line

VARIABLE = "AGGNETS_PLUGINS"


def import_plugins(names: Iterable[str], *folders: Path) -> None:
    """Import modules that the user names, also from given folders and the current one.

    Raise `UserError` if one can't be imported.
    """
    for folder in (*folders, Path.cwd()):
        if str(folder.resolve()) not in sys.path:
            sys.path.append(str(folder.resolve()))  # last: it hides no other module
    for name in names:
        if problem := _import(name):
            raise UserError(problem)


def import_installed(names: Sequence[str]) -> list[str]:
    """Import the modules that a workdir names, and return a line for each that can't be imported.

    The current folder, which may have come with the workdir, is not searched.
    """
    if not names:
        return []
    path = sys.path
    sys.path = [entry for entry in path if Path(entry or ".").resolve() != Path.cwd()]
    try:
        problems = [problem for name in names if (problem := _import(name))]
    finally:
        sys.path = path
    return [f"{problem}; to import it from this folder, set {VARIABLE}" for problem in problems]


def import_from_environment() -> None:
    """Import the modules that `VARIABLE` names; raise `UserError` if one can't be imported."""
    if names := os.environ.get(VARIABLE, ""):
        import_plugins(name.strip() for name in names.split(",") if name.strip())


def _import(name: str) -> str | None:
    """Import a module; return why it can't be imported, or None."""
    if not all(part.isidentifier() for part in str(name).split(".")):
        return f"plugin {name!r} must be the name of a module, such as my_networks"
    try:
        importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a user's module may fail in any way
        return f"plugin {name!r} can't be imported: {type(error).__name__}: {one_line(error)}"
    return None
