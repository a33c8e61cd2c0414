"""What a program takes of the memory, and whether there is as much."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import jax

from aggnets_jax.errors import UserError, one_line
from aggnets_jax.runtime.compilation import allocated_bytes

T = TypeVar("T")

# What XLA says of a device that is full, and PyTorch of a host or of a device.
_MESSAGES = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "can't allocate memory")


class OutOfMemory(RuntimeError):
    """A program needs more memory than there is."""


def peak_bytes() -> int | None:
    """The most that JAX had in use on a device so far; None where nobody counts."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def available_bytes() -> int | None:
    """What is free on a device, or on the host for the CPU; None if nobody says."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    if jax.default_backend() != "cpu":
        return None
    # A host that is full does not refuse: its kernel kills the process.
    known = [free for free in (_free_on_host(), _free_in_group()) if free is not None]
    return min(known, default=None)


def check_memory(compiled: jax.stages.Compiled) -> None:
    """Raises `OutOfMemory` if a program can't run, before it is run."""
    needed, available = allocated_bytes(compiled), available_bytes()
    if needed is not None and available is not None and needed > available:
        raise OutOfMemory(f"{needed / 1e9:.1f} GB needed, {available / 1e9:.1f} GB free")


def backing_off(build: Callable[[int], T], batch_size: int, what: str) -> tuple[T, int]:
    """Builds with half the batch, and half of that, for as long as there is too little memory.

    Each time it says so in a line.

    Args:
      build: makes of a batch size, and runs once, what is to be timed.
      batch_size: that is asked for.
      what: is built, for the line.

    Returns:
      What `build` returned, and the batch size that it is of.

    Raises:
      UserError: if there is too little memory for a batch of one image on each device.
    """
    while True:
        try:
            return build(batch_size), batch_size
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = one_line(str(error).partition("\n")[0])
        smaller = batch_size // 2
        if smaller < jax.device_count():
            raise UserError(f"{what}: no memory for a batch of {batch_size}: {reason}")
        print(f"{what}: no memory for a batch of {batch_size}, now {smaller}: {reason}", flush=True)
        batch_size = smaller


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that a host or a device has too little memory."""
    if isinstance(error, OutOfMemory | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)


def _free_on_host() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return None
    sizes = dict(line.split(":", 1) for line in lines)
    return int(sizes["MemAvailable"].split()[0]) * 1024


def _free_in_group() -> int | None:
    """What the control group (v2) of a container leaves; what it caches can be given up."""
    folder = Path("/sys/fs/cgroup")
    try:
        most = (folder / "memory.max").read_text().strip()
        used = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    return None if most == "max" else int(most) - int(used["anon"])
