"""Files that are whole or absent; one clear line when they can't be read or written."""

import contextlib
import json
import os
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aggnets_jax.errors import UserError, one_line

# Kinds of JSON data; numbers are within the range of float32.
_KINDS = {
    dict: "an object",
    list: "a list",
    int: "a whole number",
    float: "a number",
    str: "a line of text",
    str | None: "a line of text or null",
}


def local_path(path: str | Path) -> Path:
    """Return a path on this machine, "~" replaced; raise `UserError` if there can be none."""
    # A name that is too long; a ~ that nobody has; None; see below.
    kinds = OSError, RuntimeError, TypeError, ValueError
    with explained(f"{str(path)!r} is no file or directory", *kinds):
        local = Path(path).expanduser()
        if b"\0" in os.fsencode(local):
            raise ValueError("its name has a NUL character")
        local.exists()
    return local


@contextlib.contextmanager
def explained(problem: str, *kinds: type[Exception]) -> Iterator[None]:
    """Raise `UserError`, "PROBLEM: reason", for errors of these kinds, by default `OSError`."""
    kinds = kinds or (OSError,)
    try:
        yield
    except kinds as error:
        raise UserError(f"{problem}: {one_line(error)}") from error


def make_folder(folder: str | Path) -> Path:
    """Make a folder to write to, if it is not there; raise `UserError` if that fails."""
    path = local_path(folder)
    with explained(f"{folder} can't be written"):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file as `write_text` does."""
    write_text(file, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_text(file: Path, text: str) -> None:
    """Write a file at once: readers see old or new content; raise `OSError` with the file name."""
    try:
        _partial(file).write_text(text)
        os.replace(_partial(file), file)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error


def _partial(file: Path) -> Path:
    return file.with_name(f".{file.name}.tmp")


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object from a file; raise `UserError` if it is missing or damaged."""
    try:
        with explained(f"{file} is damaged", ValueError, RecursionError):
            value = json.loads(file.read_text())
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror}") from error
    if not isinstance(value, dict):
        raise UserError(f"{file} is damaged: it holds no JSON object")
    return value


def check_fields(file: Path, value: Any, fields: Any, where: str = "") -> None:
    """Check the types of JSON data; raise `UserError` if one differs.

    `fields` is the expected type: a mapping of field names to types; a list with the type of all
    items; or one of `_KINDS`, `dict` being lines of text by lines of text. The file, and the place
    in it, are for the message.
    """
    kind = type(fields) if isinstance(fields, dict | list) else fields
    fits = isinstance(value, int | float if kind is float else kind)
    if isinstance(value, str):
        fits = fits and is_line(value)
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


def is_line(text: str) -> bool:
    """Return whether a text can be printed as one line, without control characters."""
    return not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text)
