"""What a run says of itself at its start and at its end."""

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from rich.console import Console
from rich.table import Column, Table

import aggnets_jax
from aggnets_jax.connectivity.topology import Topology
from aggnets_jax.data.tf_runtime import import_tensorflow
from aggnets_jax.models import Count
from aggnets_jax.runtime.compilation import allocated_bytes
from aggnets_jax.runtime.distributed import to_host
from aggnets_jax.training.state import at_seed, seeds
from aggnets_jax.workdir.progress import Progress


def print_overview(
    network: Mapping[str, Any], counts: Mapping[str, Count], topologies: Sequence[Topology]
) -> None:
    """Prints links, parameters and multiply-adds of a network and its parts."""
    links = {f"stage{i}": str(t.num_links) for i, t in enumerate(topologies, start=1)}
    table = Table("part", *(Column(c, justify="right") for c in ("links", "parameters", "MACs")))
    for name, part in counts.items():
        table.add_row(name, links.get(name, ""), f"{part.params:,}", f"{part.macs:,}")
    table.add_section()
    total = (f"{network[name]:,}" for name in ("links", "params", "macs"))
    table.add_row(network["name"], *total)
    Console().print(table)


def peak_memory(compiled: jax.stages.Compiled) -> int | None:
    """Bytes on one device: as the device counts them, else what XLA allocates for a step."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    return allocated_bytes(compiled)


def fingerprint(params: Any) -> str:
    """SHA-256 over the parameters, in the order of their paths: names, dtypes, shapes, bytes."""
    digest = hashlib.sha256()
    leaves = {jax.tree_util.keystr(k): v for k, v in jax.tree_util.tree_leaves_with_path(params)}
    for path in sorted(leaves):
        array = to_host(leaves[path])
        digest.update(f"{path} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def seed_summaries(
    config: ml_collections.ConfigDict, params: Any, progress: Progress
) -> list[dict[str, Any]]:
    """For each seed of a finished run its number, final and best evaluation, and fingerprint."""
    return [
        {
            "seed": int(seed),
            "final": progress.final.get("seeds", [progress.final])[i],
            "best": (progress.best_of_seeds or [progress.best])[i],
            "fingerprint": fingerprint(at_seed(params, i, config.num_seeds)),
        }
        for i, seed in enumerate(np.ravel(seeds(config)))
    ]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    packages = (
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "numpy",
        "tensorflow-datasets",
    )
    return {
        "python": platform.python_version(),
        "aggnets_jax": aggnets_jax.__version__,
        "tensorflow": _tensorflow_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def _tensorflow_version() -> str:
    """That of whichever of its builds is installed; importing it to ask takes seconds."""
    for build in ("tensorflow", "tensorflow-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(build)
    return import_tensorflow().__version__


def commit() -> str | None:
    """The git revision of the checkout that the package lies in; None if it lies in none.

    "+" behind it says that files under version control differ from it.
    """
    folder = Path(__file__).parent
    git = ["git", "--no-optional-locks", "-C", str(folder)]
    try:
        # An installed package may lie in an environment inside of another project's checkout.
        for command in (
            ["ls-files", "--error-unmatch", "__init__.py"],
            ["describe", "--always", "--exclude=*", "--abbrev=40", "--dirty=+"],
        ):
            run = subprocess.run([*git, *command], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()


def hardware() -> str:
    """Number and kind of the devices, model and cores of the host: "4 x TPU v4; EPYC, 96 cores"."""
    try:
        cpus = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:  # not Linux
        cpus = []
    cpu = cpus[0].strip() if cpus else platform.processor() or platform.machine()
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}; {cpu}, {os.cpu_count()} cores"
