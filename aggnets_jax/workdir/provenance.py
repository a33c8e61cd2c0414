"""The summary of a run, and where its numbers come from: versions, commit, hardware."""

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

import aggnets_jax
from aggnets_jax.data.tf_runtime import import_tensorflow
from aggnets_jax.runtime.compilation import allocated_bytes
from aggnets_jax.runtime.distributed import to_host
from aggnets_jax.runtime.memory import peak_bytes
from aggnets_jax.runtime.mesh import bytes_per_device
from aggnets_jax.training.setup import Setup
from aggnets_jax.training.state import TrainState, at_seed, seeds
from aggnets_jax.workdir.progress import Clock, Progress


def peak_memory(compiled: jax.stages.Compiled) -> int | None:
    """Return the peak of bytes on one device; if it isn't counted, the bytes that XLA allocates."""
    return peak_bytes() or allocated_bytes(compiled)


def fingerprint(params: Any) -> str:
    """Return the SHA-256 of names, dtypes, shapes and bytes of the parameters, by path."""
    digest = hashlib.sha256()
    leaves = {jax.tree_util.keystr(k): v for k, v in jax.tree_util.tree_leaves_with_path(params)}
    for path in sorted(leaves):
        array = to_host(leaves[path])
        digest.update(f"{path} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def summarise(
    setup: Setup,
    network: Mapping[str, Any],
    mesh: Mesh,
    state: TrainState,
    progress: Progress,
    clock: Clock,
) -> dict[str, Any]:
    """Return the summary of a finished run, JSON data.

    Its fields are `steps`; `final` and `best`, evaluations with their "step"; `images_per_second`;
    `compile_seconds`; `compile_seconds_saved`, None if the step was not in the compilation cache;
    `peak_memory_bytes` and `state_bytes` of a device; `network` (`name`, `links`, `params`,
    `macs`); `devices`; `versions`; `fingerprint`, the SHA-256 of the parameters; `seeds`, for each
    its `seed`, `final`, `best` and `fingerprint`; `commit`; `hardware`; and `config_changes`.
    """
    config = setup.config
    each_seed = [
        {
            "seed": int(seed),
            "final": progress.final.get("seeds", [progress.final])[i],
            "best": (progress.best_of_seeds or [progress.best])[i],
            "fingerprint": fingerprint(at_seed(state.params, i, config.num_seeds)),
        }
        for i, seed in enumerate(np.ravel(seeds(config)))
    ]
    return {
        "steps": state.updates,
        "final": progress.final,
        "best": progress.best,
        "images_per_second": clock.images_per_second,
        "compile_seconds": progress.compile_seconds,
        "compile_seconds_saved": progress.compile_seconds_saved,
        "peak_memory_bytes": progress.peak_memory_bytes,
        "state_bytes": bytes_per_device(state),
        "network": network,
        "devices": f"{mesh.size} x {jax.devices()[0].device_kind}",
        "versions": versions(),
        "fingerprint": fingerprint(state.params),
        "seeds": each_seed,
        "commit": ", ".join(progress.commits) or None,
        "hardware": hardware(),
        "config_changes": progress.config_changes,
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets")
    return {
        "python": platform.python_version(),
        "aggnets_jax": aggnets_jax.__version__,
        "tensorflow": _tensorflow_version(),
        **{name: importlib.metadata.version(name) for name in names},
    }


def _tensorflow_version() -> str:
    """Return TensorFlow's version without importing it, which takes seconds, if possible."""
    for build in ("tensorflow", "tensorflow-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(build)
    return import_tensorflow().__version__


def commit() -> str | None:
    """Return the git revision of the package's checkout; None if it is not in one.

    A "+" at the end says that files under version control differ from it.
    """
    folder = Path(__file__).parent
    git = ["git", "--no-optional-locks", "-C", str(folder)]
    try:
        # An installed package may lie in an environment within another project's checkout.
        for command in (
            ["ls-files", "--error-unmatch", "__init__.py"],
            ["describe", "--always", "--exclude=*", "--abbrev=40", "--dirty=+"],
        ):
            run = subprocess.run([*git, *command], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()


def origin() -> dict[str, str | None]:
    """Return the origin of measured numbers, the last columns of the tables in results/."""
    return {
        "jax": jax.__version__,
        "aggnets_jax": aggnets_jax.__version__,
        "commit": commit(),
        "hardware": hardware(),
    }


def hardware() -> str:
    """Describe the devices and the host: "4 x TPU v4; EPYC, 96 cores"."""
    try:
        cpus = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:  # not Linux
        cpus = []
    cpu = cpus[0].strip() if cpus else platform.processor() or platform.machine()
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}; {cpu}, {os.cpu_count()} cores"
