"""Symbolic links with plain names to workdirs whose names Orbax misreads."""

import tempfile
from contextlib import ExitStack
from pathlib import Path

from aggnets_jax.files import explained

# etils, by which Orbax handles paths, takes these for buckets.
_SCHEMES = ("gs", "s3", "az", "hf")


def plain_path(path: Path, links: ExitStack) -> Path:
    """Return a path to the same folder that Orbax and TensorStore can handle.

    If they can't handle the path itself, this is a symbolic link in a temporary folder, which
    `links` removes.

    Raises:
      UserError: if there can be no link.
    """
    path = path.absolute()
    if is_plain(path):
        return path
    with explained(f"there can be no symbolic link to {path}"):
        folder = links.enter_context(tempfile.TemporaryDirectory(prefix="aggnets-"))
        link = Path(folder, "workdir")
        link.symlink_to(path, target_is_directory=True)
    return link


def is_plain(path: Path) -> bool:
    """Return whether Orbax and TensorStore read an absolute path literally.

    Orbax looks for the files that it has written by a shell pattern with the path in it. With
    "run[1]" it finds none, and reports no error; with "run*" also those of another run. TensorStore
    reads a backslash as a slash, has files of its own that end with ".__lock", and takes paths in
    UTF-8 only.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    schemes = {f"{scheme}:" for scheme in _SCHEMES}
    return not (
        set(str(path)) & set("*?[\\")
        or schemes & {*path.parts}
        or {*path.parts[1:2]} & {*_SCHEMES}
        or any(part.endswith(".__lock") for part in path.parts)
    )
