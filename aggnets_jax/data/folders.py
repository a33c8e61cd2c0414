"""Folders of data: their files but for hidden ones, and folders that are written once, whole."""

import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from aggnets_jax.buckets import is_url
from aggnets_jax.data.tf_runtime import import_tensorflow
from aggnets_jax.errors import UserError, one_line
from aggnets_jax.files import explained, local_path
from aggnets_jax.runtime.interrupts import cleaning_up

# Files and folders that systems add to folders of data. Those that begin with a dot are hidden.
_OF_SYSTEMS = {"@eaDir", "__MACOSX", "Thumbs.db", "desktop.ini"}


def is_visible(path: str) -> bool:
    """Return whether no part of a path is hidden, or a file or folder that systems add."""
    return not any(
        part in _OF_SYSTEMS or (part.startswith(".") and part != ".") for part in path.split("/")
    )


def walk(folder: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield each folder with its visible folders and files, as `os.walk` does, following links.

    Raises:
      UserError: a folder can't be read, or holds a pipe, a socket or a device.
    """

    def fail(error: OSError) -> None:
        raise UserError(f"folder {error.filename} can't be read: {one_line(error)}") from error

    if "://" in folder:  # in a bucket
        found = import_tensorflow().io.gfile.walk(folder)
    else:
        found = os.walk(folder, onerror=fail, followlinks=True)
    seen = {str(parent) for parent in Path(os.path.realpath(folder)).parents}
    for parent, folders, files in found:
        place = os.path.realpath(parent)
        if place in seen:  # a link leads back to a folder above
            folders.clear()
            continue
        seen.add(place)
        # Names of folders in a bucket end with a slash.
        folders[:] = filter(is_visible, [name.rstrip("/") for name in folders])
        files = [*filter(is_visible, files)]
        if "://" not in folder:
            _check_regular(parent, files)
        yield parent, folders, files


def _check_regular(folder: str, files: Sequence[str]) -> None:
    """Raise `UserError` for a pipe, a socket or a device, which might never end."""
    with os.scandir(folder) as entries:  # most file systems tell the kind with the name
        others = {e.name for e in entries if not (e.is_file() or e.is_symlink() or e.is_dir())}
    if strange := sorted(others & {*files}):
        raise UserError(f"{os.path.join(folder, strange[0])} is no file but a pipe or device")


def files_below(folder: str) -> list[str]:
    """Return the paths of the visible files in a folder and below, sorted; errors are `walk`'s."""
    return sorted(os.path.join(parent, name) for parent, _, files in walk(folder) for name in files)


def make_once(folder: str, write: Callable[[Path], object]) -> Path:
    """Return a folder of data; if it is not there, write it beside its place and rename it.

    Other processes, also on other machines, may do the same at the same time: the first one wins.

    Args:
      folder: folder on this machine.
      write: function that makes a folder and its files.

    Raises:
      UserError: for a folder in a bucket, or one that can't be written.
    """
    check_local(folder)
    place = local_path(folder)
    if place.is_dir():
        return place
    with explained(f"cannot write {folder}"):
        place.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as made,
            cleaning_up(functools.partial(shutil.rmtree, made, ignore_errors=True)),
        ):
            # Within the temporary folder, which other users may not read.
            write(begun := Path(made, place.name))
            try:
                begun.rename(place)
            except OSError:
                if not place.is_dir():
                    raise
    return place


def check_local(folder: str) -> None:
    """Raise `UserError` if a folder of data that is written here would be in a bucket."""
    if is_url(folder):
        raise UserError(f"{folder} is in a bucket: give --data_dir, a folder on this machine")
