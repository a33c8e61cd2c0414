"""Memory that a program needs and a device has."""

from pathlib import Path

import jax

from aggnets_jax.runtime.compilation import allocated_bytes

# Messages of XLA about a full device, and of PyTorch about a full host or device.
_MESSAGES = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "can't allocate memory")


class OutOfMemory(RuntimeError):
    """A program needs more memory than there is."""


def peak_bytes() -> int | None:
    """Return the peak memory use of JAX on the first device, or `None` if it is unknown."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def available_bytes() -> int | None:
    """Return the free memory of a device, or of the host for the CPU; `None` if unknown."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    if jax.default_backend() != "cpu":
        return None
    # The CPU needs this check: a full host refuses no memory, but its kernel kills the process.
    known = [free for free in (_free_on_host(), _free_in_group()) if free is not None]
    return min(known, default=None)


def check_memory(compiled: jax.stages.Compiled, *, placed: bool = False) -> None:
    """Raise `OutOfMemory` if a program needs more memory than is free, before it runs.

    Args:
      compiled: program.
      placed: whether its arguments are in the memory already.
    """
    needed, available = allocated_bytes(compiled), available_bytes()
    if needed is None or available is None:
        return
    if placed:
        needed -= compiled.memory_analysis().argument_size_in_bytes
    if jax.default_backend() == "cpu":  # all devices of this process share the host's memory
        needed *= jax.local_device_count()
    if needed > available:
        raise OutOfMemory(f"{needed / 1e9:.1f} GB needed, {available / 1e9:.1f} GB free")


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error means that a host or a device has too little memory."""
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
    """Return the memory left to a container by its control group (v2), cached files not counted."""
    folder = Path("/sys/fs/cgroup")
    try:
        most = (folder / "memory.max").read_text().strip()
        used = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    return None if most == "max" else int(most) - int(used["anon"])
