"""Compiled programs are kept on the disk, so that the next start need not compile them."""

import contextlib
import dataclasses
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from aggnets_jax.errors import one_line

VARIABLE = "JAX_COMPILATION_CACHE_DIR"
MAX_BYTES = 4 << 30

_SECONDS_SAVED = "/jax/compilation_cache/compile_time_saved_sec"


def keep_programs() -> None:
    """Makes JAX keep on the disk what takes it a second or longer to compile.

    Where `JAX_COMPILATION_CACHE_DIR` says, whose folder is the user's business; nowhere if that is
    empty. By default in `aggnets_jax/xla` of the user's cache folder, in which at each start what
    was used the longest ago is deleted until the rest has at most `MAX_BYTES`.

    What is in that folder will be run, so it must be of this user, and nobody else may write to it.
    If there can't be such a folder, a line on stderr says so, and nothing is kept.
    """
    if VARIABLE in os.environ:  # which JAX has read
        return
    try:
        folder = _private_folder()
        _prune(folder, MAX_BYTES)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        print(f"warning: compiled programs are not kept: {one_line(error)}", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _private_folder() -> Path:
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not caches.is_absolute():
        caches = Path.home() / ".cache"
    folder = caches / "aggnets_jax" / "xla"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    folder.chmod(0o700)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} can't be written")
    return folder


def _prune(folder: Path, max_bytes: int) -> None:
    """Deletes the files that were used the longest ago until the rest are small enough."""
    found = []
    for file in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process prunes as well
            stat = file.stat()
            if file.is_file():
                # Some disks note no accesses.
                found.append((max(stat.st_atime, stat.st_mtime), stat.st_size, file))
    found.sort(reverse=True)
    sums = itertools.accumulate(size for _, size, _ in found)
    for (_, _, file), total in zip(found, sums, strict=True):
        if total > max_bytes:
            file.unlink(missing_ok=True)


@dataclasses.dataclass
class CacheHits:
    """Programs that need not be compiled because they were kept.

    Attributes:
      programs: how many.
      seconds_saved: what their compilation took, less what it took to read them.
    """

    programs: int = 0
    seconds_saved: float = 0.0


@contextlib.contextmanager
def counting_hits() -> Iterator[CacheHits]:
    """Counts the programs that are found in the cache within the context."""
    hits = CacheHits()

    def note(event: str, seconds: float, **_: Any) -> None:
        if event == _SECONDS_SAVED:
            hits.programs += 1
            hits.seconds_saved += max(0.0, seconds)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield hits
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
