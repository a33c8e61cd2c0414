"""Files that are whole or absent; one clear line when they can't be read or written."""

import contextlib
import errno
import io
import json
import os
import re
import secrets
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

from etils import epath

from aggnets_jax.buckets import bucket_path, file_system, is_url, object_names, storage
from aggnets_jax.errors import UserError, one_line

# Most methods of `pathlib.Path` are those of both. etils' class is for buckets alone: on this
# machine, it overlooks backup files ("notes~"), and removes folders with nothing else as empty.
AnyPath: TypeAlias = Path | epath.Path
PathLike: TypeAlias = str | os.PathLike[str]

# Kinds of JSON data; numbers are within the range of float32.
_KINDS = {
    dict: "an object",
    list: "a list",
    int: "a whole number",
    float: "a number",
    str: "a line of text",
    str | None: "a line of text or null",
}


def local_path(path: PathLike) -> Path:
    """Return a path on this machine, "~" replaced; raise `UserError` if there can be none."""
    # A name that is too long; a ~ that nobody has; None; see below.
    kinds = OSError, RuntimeError, TypeError, ValueError
    with explained(f"{str(path)!r} is no file or directory", *kinds):
        local = Path(path).expanduser()
        if b"\0" in os.fsencode(local):
            raise ValueError("its name has a NUL character")
        local.exists()
    return local


def any_path(path: PathLike) -> AnyPath:
    """Return a path on this machine, or one in a bucket, gs:// or s3://.

    Raises:
      UserError: as `local_path` and `buckets.bucket_path` do.
    """
    return bucket_path(str(path)) if is_url(path) else local_path(path)


# Errors of a disk that may be well again: it is full, or its server does not answer.
_PASSING = {
    *(errno.EDQUOT, errno.EIO, errno.EHOSTDOWN, errno.ENETDOWN, errno.ENOSPC, errno.ENOTCONN),
    *(errno.ESTALE, errno.ETIMEDOUT),
}


def passes(error: BaseException) -> TypeGuard[OSError]:
    """Return whether an error is of a disk that is full, or whose server does not answer now."""
    return isinstance(error, OSError) and error.errno in _PASSING


@contextlib.contextmanager
def explained(problem: str, *kinds: type[Exception]) -> Iterator[None]:
    """Raise `UserError`, "PROBLEM: reason", for errors of these kinds, by default `OSError`.

    An error that `passes` is raised as an `OSError`.
    """
    kinds = kinds or (OSError,)
    try:
        yield
    except kinds as error:
        told = f"{problem}: {one_line(error)}"
        if not passes(error):
            raise UserError(told) from error
        passing = OSError(told)  # given here, the number would be told twice
        passing.errno = error.errno
        raise passing from error


def make_folder(folder: PathLike) -> AnyPath:
    """Make a folder to write to, if it is not there; raise `UserError` if that fails.

    In a bucket, a folder is there when a file is in it.
    """
    path = any_path(folder)
    if not is_url(path):
        with explained(f"{folder} can't be written"):
            path.mkdir(parents=True, exist_ok=True)
    return path


def has_folder(path: AnyPath) -> bool:
    """Return whether a folder is there; in a bucket, whether anything is.

    Raises:
      OSError: if the storage does not answer. gcsfs's `is_dir` would say that nothing is there.
    """
    if not is_url(path):
        return path.is_dir()
    with storage(path):
        return path.exists()


def remove_folder(folder: AnyPath) -> None:
    """Delete a folder with all that is in it; raise `OSError` if that fails."""
    if not is_url(folder):
        shutil.rmtree(folder)
        return
    with storage(folder):
        file_system(folder).rm(str(folder), recursive=True)


def write_json(file: AnyPath, value: Mapping[str, Any]) -> None:
    """Write a JSON file as `write_bytes` does."""
    write_text(file, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_text(file: AnyPath, text: str) -> None:
    """Write a text file as `write_bytes` does; what is no UTF-8 in names of files is escaped."""
    write_bytes(file, text.encode(errors="backslashreplace"))


def write_figure(file: AnyPath, figure: Any, **how: Any) -> None:
    """Write a Matplotlib figure, in the format of the file's name, as `write_bytes` does."""
    with io.BytesIO() as image:
        figure.savefig(image, format=file.suffix.removeprefix("."), **how)
        write_bytes(file, image.getvalue())


def write_bytes(file: AnyPath, content: bytes) -> None:
    """Write a file at once: readers see old or new content; raise `OSError` with the file name."""
    if is_url(file):
        with storage(file):
            file_system(file).pipe_file(str(file), content)
        return
    try:
        with whole_file(file) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error


@contextlib.contextmanager
def local_copy(file: AnyPath) -> Iterator[Path]:
    """Give a file on this machine with the content of a file, which may be in a bucket."""
    if not is_url(file):
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        with storage(file):
            file_system(file).get_file(str(file), os.path.join(folder, file.name))
        yield Path(folder, file.name)


@contextlib.contextmanager
def whole_file(file: AnyPath) -> Iterator[Path]:
    """Give a file on this machine to write; when the context ends, `file` is there with all of it.

    A link stays, and its target is written.

    Raises:
      OSError: if it can't be written.
      UserError: if it is a device or a pipe, which would be replaced.
    """
    if not is_url(file):
        file = type(file)(os.path.realpath(file))
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise UserError(f"{file} is a device or a pipe: give a file")
    with contextlib.ExitStack() as stack:
        if is_url(file):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            partial = Path(folder, file.name)
        else:
            # Another process may write the same file.
            partial = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
            stack.callback(partial.unlink, missing_ok=True)
        yield partial
        if is_url(file):
            upload(partial, file)
        else:
            os.replace(partial, file)


@contextlib.contextmanager
def filled_folder(folder: AnyPath) -> Iterator[Path]:
    """Give a folder on this machine to write to; for a folder in a bucket, upload it at the end."""
    if not is_url(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as local:
        yield Path(local)
        upload_folder(Path(local), folder)


@contextlib.contextmanager
def plainly_named(folder: AnyPath) -> Iterator[AnyPath]:
    """Give another path of a folder if TensorFlow would take its own for a pattern: "run [1]"."""
    if is_url(folder) or not re.search(r"[][*?\\]", str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory() as made:
        link = Path(made, "link")
        link.symlink_to(os.path.abspath(folder))
        yield link


def move_folder(folder: AnyPath, place: AnyPath) -> None:
    """Rename a folder; in a bucket, copy its objects and then delete them."""
    if is_url(folder):
        with storage(folder):
            names = object_names(folder)
            before = [f"{folder}/{name}" for name in names]
            file_system(folder).copy(before, [f"{place}/{name}" for name in names])
            file_system(folder).rm(before)
    else:
        folder.rename(place)


def upload_folder(folder: Path, place: AnyPath) -> None:
    """Copy the files in a folder, and below, to a bucket as `upload` does."""
    for file in filter(Path.is_file, folder.rglob("*")):
        upload(file, place / file.relative_to(folder).as_posix())


def upload(file: Path, place: AnyPath) -> None:
    """Copy a file to a bucket at once; raise `OSError` with the place if that fails."""
    with storage(place):
        file_system(place).put_file(str(file), str(place))


def partial_of(name: str) -> str | None:
    """Return the name that a file on this machine gets when it is written; None if it has it."""
    found = re.fullmatch(r"\.(.+)\.[0-9a-f]{8}\.tmp", name)
    return found and found[1]


def read_json(file: AnyPath) -> dict[str, Any]:
    """Read a JSON object from a file; raise `UserError` if it is missing or damaged."""
    text = read_text(file)
    with explained(f"{file} is damaged", ValueError, RecursionError):
        value = json.loads(text)
    if not isinstance(value, dict):
        raise UserError(f"{file} is damaged: it holds no JSON object")
    return value


def read_text(file: AnyPath) -> str:
    """Read a text file, without the mark that Windows may put before UTF-8.

    Raises:
      UserError: if it can't be read, or is no UTF-8.
      OSError: if it is in a bucket that does not answer.
    """
    with explained(f"{file} is damaged", UnicodeDecodeError), storage(file):
        try:
            return file.read_text(encoding="utf-8-sig")
        except FileNotFoundError as error:
            raise UserError(f"{file} can't be read: {os.strerror(errno.ENOENT)}") from error
        except OSError as error:
            if is_url(file) or passes(error):
                raise
            raise UserError(f"{file} can't be read: {error.strerror}") from error


def check_fields(file: AnyPath, value: Any, fields: Any, where: str = "") -> None:
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
