"""The directory of a run: whose it is, and whether it can be written."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aggnets_jax import config as config_lib
from aggnets_jax.errors import UserError

CONFIG = "config.json"


def open_workdir(workdir: str | Path, config: Mapping[str, Any]) -> Path:
    """Makes the directory of a new run, or checks that it is that of the run to go on with.

    Args:
      workdir: of the run.
      config: resolved, as JSON data.

    Raises:
      UserError: if it can't be written, or holds something else than a run of this config; it is
        then left as it was.
    """
    path = Path(workdir)
    _check_same_run(path, config)
    existed = path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        write_json(path / CONFIG, config)
    except OSError as error:
        if not existed and path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        raise UserError(f"workdir {path} can't be written: {error.strerror}") from error
    return path


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON file at once: whoever reads it sees the old content or the new."""
    _partial(file).write_text(json.dumps(value, indent=2) + "\n")
    os.replace(_partial(file), file)


def _partial(file: Path) -> Path:
    return file.with_name(f".{file.name}.tmp")


def read_json(file: Path) -> Any:
    """Reads a JSON file of a workdir.

    Raises:
      UserError: if it is missing or damaged.
    """
    try:
        return json.loads(file.read_text())
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}") from error


def _check_same_run(path: Path, config: Mapping[str, Any]) -> None:
    try:
        # What a process left that was killed while it wrote the config does not count.
        if not path.exists() or not any(file != _partial(path / CONFIG) for file in path.iterdir()):
            return
    except OSError as error:
        raise UserError(f"workdir {path} can't be used: {error.strerror}") from error
    if not (path / CONFIG).exists():
        raise UserError(f"workdir {path} is not empty and holds no run; give an empty or new one")
    changed = config_lib.differences(read_json(path / CONFIG), config)
    if changed:
        raise UserError(
            f"workdir {path} holds a run of another config ({'; '.join(changed)});"
            " give another workdir"
        )
