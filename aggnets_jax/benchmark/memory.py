"""What a program takes of the memory, and whether there is as much."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import jax

from aggnets_jax.benchmark.setting import Setting
from aggnets_jax.errors import UserError

T = TypeVar("T")

# What XLA says of a device that is full, and PyTorch of a host or of a device.
_MESSAGES = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "can't allocate memory")


class OutOfMemory(RuntimeError):
    """A program needs more memory than there is."""


def needed_bytes(compiled: jax.stages.Compiled) -> int | None:
    """What a program allocates on a device, arguments and results included."""
    memory = compiled.memory_analysis()
    return memory and (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )


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
    needed, available = needed_bytes(compiled), available_bytes()
    if needed is not None and available is not None and needed > available:
        raise OutOfMemory(f"{needed / 1e9:.1f} GB needed, {available / 1e9:.1f} GB free")


def backing_off(
    build: Callable[[Setting], T], setting: Setting, least: int, tell: Callable[[str], None]
) -> tuple[T, Setting]:
    """Builds with half the batch, and half of that, for as long as there is too little memory.

    Args:
      build: makes, and runs once, what is to be timed.
      setting: with the batch size asked for.
      least: the smallest batch size to try.
      tell: takes a line for each batch that is too large.

    Returns:
      What `build` returned, and the setting that it was of.

    Raises:
      UserError: if there is too little memory for the least batch.
    """
    while True:
        try:
            return build(setting), setting
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0][:100]
        size = setting.batch_size // 2
        if size < least:
            raise UserError(
                f"{setting.model}: too little memory for a batch of {setting.batch_size} ({reason})"
            )
        asked = setting.batch_size
        tell(f"{setting.model}: no memory for a batch of {asked}, going on with {size}: {reason}")
        setting = setting.with_batch(size)


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
