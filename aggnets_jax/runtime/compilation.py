"""Compilation by XLA: options, memory of programs, and the cache on the disk."""

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax

from aggnets_jax.errors import one_line

VARIABLE = "JAX_COMPILATION_CACHE_DIR"
MAX_BYTES = 4 << 30
_SECONDS_SAVED = "/jax/compilation_cache/compile_time_saved_sec"


# A user context is part of jit's cache key: functions are traced again when its value changes.
_target = jax.make_user_context(None)


def compile_for(platform: str) -> AbstractContextManager[None]:
    """Trace and compile for a platform, "cpu", "gpu" or "tpu", which need not be here."""
    return _target(platform)


def backend() -> str:
    """Return the platform that programs are compiled for: the default backend, or another's."""
    return _target.value or jax.default_backend()


def compiler_options() -> dict[str, str]:
    """Return XLA's options on the backend, for `jax.jit(..., compiler_options=...)`.

    On CPU a pass removes the barriers that `jax.checkpoint` puts around computations that are to be
    repeated, and the next pass merges them with the first computation: no memory would be saved.
    Another pass makes one operation of a loop over small arrays, which can't have barriers in it.

    Several devices of a process share its threads. If a device waits for the others in two
    all-reduces at once, there may be no thread left for the last device, and all wait for ever. In
    the order of another scheduler, each waits in one at a time.
    """
    if backend() != "cpu":
        return {}
    options = {"xla_disable_hlo_passes": "cse_barrier_expander,small-while-loop-hoisting"}
    if jax.local_device_count() > 1:
        options["xla_cpu_scheduler_type"] = "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"
    return options


def fast_compile_options() -> dict[str, int]:
    """Return XLA's options for fast compilation of a program that runs once."""
    return {"xla_backend_optimization_level": 1} if backend() == "cpu" else {}


def allocated_bytes(compiled: jax.stages.Compiled) -> int | None:
    """Return the bytes that a program takes on a device, arguments and results included."""
    memory = compiled.memory_analysis()
    return memory and (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )


def barrier_on_cpu(tree: Any) -> Any:
    """Put an optimisation barrier around a layer's output on CPU.

    XLA:CPU recomputes a sum of outputs wherever it is read, and with it the sums of all layers
    before: a step of a residual network of 110 layers takes twice as long.
    """
    return jax.lax.optimization_barrier(tree) if backend() == "cpu" else tree


def enable_program_cache() -> None:
    """Let JAX keep programs on the disk that take a second or longer to compile.

    The folder is `JAX_COMPILATION_CACHE_DIR`, which the user looks after; if that is empty, nothing
    is kept. The default is `aggnets_jax/xla` in the user's cache folder, where each start deletes
    the programs that were not used for longest until the rest has at most `MAX_BYTES`.

    Programs in that folder are executed, so it must belong to this user, and nobody else may write
    to it. If there can't be such a folder, a line on stderr says so, and nothing is kept.
    """
    if VARIABLE in os.environ:  # JAX has read it
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
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():  # not on Windows
        raise PermissionError(f"{folder} belongs to another user")
    folder.chmod(0o700)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} can't be written")
    return folder


def _prune(folder: Path, max_bytes: int) -> None:
    """Delete the files that were not used for longest until the rest is small enough."""
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


@contextlib.contextmanager
def count_cache_hits() -> Iterator[list[float]]:
    """List the seconds saved by each program that is found in the cache within the context."""
    hits = []

    def note(event: str, seconds: float, **_: Any) -> None:
        if event == _SECONDS_SAVED:
            hits.append(max(0.0, seconds))

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield hits
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
