"""The directory of a run: whose it is, and whether it can be written."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aggnets_jax import config as config_lib
from aggnets_jax.errors import UserError, one_line

CONFIG = "config.json"
LOCK = ".lock"
SUMMARY = "summary.json"

# What JSON data can be; numbers are those of float32 and no NaN.
_KINDS = {
    dict: "an object",
    list: "a list",
    int: "a whole number",
    float: "a number",
    str: "a line of text",
    str | None: "a line of text or null",
}
# What readers of a summary rely on.
METRICS = {"accuracy": float, "accuracy_top5": float, "loss": float}
_FIELDS_OF_SEED = {"seed": int, "final": METRICS, "best": METRICS, "fingerprint": str}
_FIELDS_OF_SUMMARY = {
    "steps": int,
    "final": {"step": int, **METRICS},
    "images_per_second": float,
    "network": {"name": str, "links": int, "params": int, "macs": int},
    "versions": dict,
    "hardware": str,
    "commit": str | None,
    "config_changes": [{"step": int, "changes": [str]}],
    "seeds": [_FIELDS_OF_SEED],
}


def local_path(path: str | Path) -> Path:
    """A path on this machine, "~" replaced.

    Raises:
      UserError: if there can be none such.
    """
    try:
        local = Path(path).expanduser()
        if b"\0" in os.fsencode(local):
            raise ValueError("its name has a NUL character")
        local.exists()
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        # A name that is too long; a ~ that nobody has; None.
        raise UserError(f"{str(path)!r} is no file or directory: {one_line(error)}") from error
    return local


@contextlib.contextmanager
def open_workdir(
    workdir: str | Path, config: Mapping[str, Any], *, allow_config_change: bool = False
) -> Iterator[Path]:
    """Makes the directory of a new run, or checks that it is that of the run to go on with.

    Within the context no other process can have it. If the context ends before anything is written
    to a new directory, it is gone again.

    Args:
      workdir: of the run; local, for files are appended to and locked.
      config: resolved, as JSON data.
      allow_config_change: whether the run may be one of another config so far.

    Raises:
      UserError: if it can't be written, is in use, or holds something else than a run of this
        config; it is then left as it was.
    """
    if "://" in str(workdir):
        raise UserError(f"workdir {workdir} must be a local directory, or a mounted one")
    try:
        path = local_path(workdir)
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        _check_same_run(path, config, allow_config_change)
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / LOCK).open("a")
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"workdir {workdir} can't be used: {one_line(error)}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"workdir {path} is in use by another process") from error
        except OSError:  # some network file systems know no locks
            pass
        try:
            yield path
        finally:
            # If the storage is gone, that is not what the run ends with.
            with contextlib.suppress(OSError):
                if not (path / CONFIG).exists():
                    (path / LOCK).unlink(missing_ok=True)
                    for folder in missing:
                        if not any(folder.iterdir()):
                            folder.rmdir()


def make_folder(folder: str | Path) -> Path:
    """Makes a folder to write to, if it is not there.

    Raises:
      UserError: if it can't be made.
    """
    path = local_path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} can't be written: {one_line(error)}") from error
    return path


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON file as `write_text` does."""
    write_text(file, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_text(file: Path, text: str) -> None:
    """Writes a file at once: whoever reads it sees the old content or the new.

    Raises:
      OSError: with the name of the file, if it can't be written.
    """
    try:
        _partial(file).write_text(text)
        os.replace(_partial(file), file)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error


def _partial(file: Path) -> Path:
    return file.with_name(f".{file.name}.tmp")


def read_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object from a file of a workdir.

    Raises:
      UserError: if it is missing or damaged.
    """
    try:
        value = json.loads(file.read_text())
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise UserError(f"{file} is damaged: it holds no JSON object")
    return value


def read_summary(workdir: Path) -> dict[str, Any]:
    """Reads the summary of a finished run; one of an older version gets the fields it lacks.

    Raises:
      UserError: if it is missing or damaged.
    """
    summary = read_json(workdir / SUMMARY)
    summary.setdefault("hardware", summary.get("devices"))
    summary.setdefault("config_changes", [])
    if not summary.get("seeds"):
        # Seeds that trained together are told apart since several can.
        seed = read_json(workdir / CONFIG).get("seed")
        summary["seeds"] = [{"seed": seed, **summary}]
    check_fields(workdir / SUMMARY, summary, _FIELDS_OF_SUMMARY)
    return summary


def check_fields(file: Path, value: Any, fields: Any, where: str = "") -> None:
    """Checks that JSON data is what it is used as.

    Args:
      file: it is from.
      value: the data.
      fields: a mapping of names of fields to what each must be; a list with what all items must be;
        or one of `_KINDS`, `dict` being lines of text by lines of text.
      where: of the file the data is, for the message.

    Raises:
      UserError: if it is something else.
    """
    kind = type(fields) if isinstance(fields, dict | list) else fields
    fits = isinstance(value, int | float if kind is float else kind)
    if isinstance(value, str):
        fits = fits and config_lib.is_line(value)
    elif isinstance(value, int | float):
        fits = fits and not isinstance(value, bool) and abs(value) < 2.0**128
    if not fits:
        raise UserError(f"{file} is damaged: {where or 'it'} must be {_KINDS[kind]}")
    if fields is dict:
        check_fields(file, [*value, *value.values()], [str], where)
    elif isinstance(fields, dict):
        for name, inner in fields.items():
            check_fields(file, value.get(name), inner, f"{where}.{name}".lstrip("."))
    elif isinstance(fields, list):
        for number, item in enumerate(value):
            check_fields(file, item, fields[0], f"{where}[{number}]")


def another_config(workdir: Path, changes: Sequence[str]) -> UserError:
    """The error for a run that would go on with another config; `changes` says what differs."""
    return UserError(
        f"workdir {workdir} holds a run of another config ({'; '.join(changes)}); give another"
        " workdir, or --allow_config_change to go on with the changed one"
    )


def _check_same_run(path: Path, config: Mapping[str, Any], allow_config_change: bool) -> None:
    # What a process left that was killed before it had written the config does not count.
    own = {LOCK, _partial(path / CONFIG).name}
    if not path.exists() or all(file.name in own for file in path.iterdir()):
        return
    if not (path / CONFIG).exists():
        raise UserError(f"workdir {path} is not empty and holds no run; give an empty or new one")
    changes = config_lib.differences(read_json(path / CONFIG), config)
    if changes and not allow_config_change:
        raise another_config(path, changes)
