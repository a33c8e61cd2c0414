"""How XLA is asked to compile what trains a network, and what it then allocates."""

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


def compiler_options() -> dict[str, str]:
    """XLA's options on the default backend, for `jax.jit(..., compiler_options=...)`.

    On the CPU a pass removes the barriers that `jax.checkpoint` puts around what is to be computed
    again, and the next merges it with what was computed first: no memory would be saved.
    """
    if jax.default_backend() == "cpu":
        return {"xla_disable_hlo_passes": "cse_barrier_expander"}
    return {}


def allocated_bytes(compiled: jax.stages.Compiled) -> int | None:
    """What XLA allocates on a device for a program, arguments and results included."""
    memory = compiled.memory_analysis()
    return memory and (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )


def fast_compile_options() -> dict[str, int]:
    """The same for a program that runs once: it is compiled in less time rather than to be fast."""
    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else {}


def barrier_on_cpu(tree: Any) -> Any:
    """What is computed before and behind a layer's output, compiled apart on the CPU.

    XLA:CPU computes sums of outputs again wherever they are read, and with them those of all layers
    before: a step of a residual network of 110 layers takes twice as long.
    """
    return jax.lax.optimization_barrier(tree) if jax.default_backend() == "cpu" else tree


VARIABLE = "JAX_COMPILATION_CACHE_DIR"


MAX_BYTES = 4 << 30


_SECONDS_SAVED = "/jax/compilation_cache/compile_time_saved_sec"


def enable_program_cache() -> None:
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
def count_cache_hits() -> Iterator[CacheHits]:
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
