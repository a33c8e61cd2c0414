"""Measurements beside the model of docs/scaling.md: `python results/scaling.py`.

Writes three tables of three networks, or those of them that `--tables` names:

* predicted: results/scaling_predicted.csv, the efficiency of steps to 1024 devices.
* compiled: results/scaling.csv, the results of `aggnets dry-run` (state and bytes of collectives of
  a device) for both shardings and 1 to 8 simulated devices.
* timed: results/scaling_timed.csv, the steps of 1 to 8 simulated devices, which share this
  machine's cores, beside the model with the rates of this machine.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from aggnets_jax import create_model, model_info
from aggnets_jax.cli import Parser, exit_code
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.tables import write_csv

HERE = Path(__file__).parent


class Workload(NamedTuple):
    """A training: a network, its data set, and images on each device."""

    network: str
    data: str
    image_size: int
    batch: int


WORKLOADS = (
    Workload("resnet50", "imagenet2012", 224, 64),
    Workload("densenet121", "imagenet2012", 224, 64),
    Workload("sparsenet_bc100_k12", "cifar10", 32, 64),
)
# Batch sizes for compiling and timing: small, because collectives do not depend on them, and
# simulated devices share two cores.
COMPILED_BATCH = 2
TIMED_BATCH = 4


class System(NamedTuple):
    """Devices and what joins them, as published.

    Attributes:
      name: of the devices.
      flops: peak in bfloat16, FLOP/s.
      bandwidth: of a device to the others in one direction, bytes/s.
      most: devices that are joined so.
      source: of both.
    """

    name: str
    flops: float
    bandwidth: float
    most: int
    source: str


SYSTEMS = (
    System("TPU v5p", 459e12, 600e9, 8960, "docs.cloud.google.com/tpu/docs/v5p-training"),
    System("TPU v5e", 197e12, 200e9, 256, "cloud.google.com/tpu/docs/v5e"),
    System("H100, 400 Gb/s each", 989e12, 50e9, 1 << 20, "NVIDIA DGX H100 datasheet"),
)
# Assumed: the share of the peak that steps of convolutional networks reach on one device, and the
# seconds that a message takes to the next device.
UTILISATION = 0.3
LATENCY = 2e-6
DEVICES = (1, 8, 32, 128, 256, 512, 1024)


class Network(NamedTuple):
    """The facts of a network that the model uses.

    Attributes:
      params: their number.
      divided: of these, in arrays that `fsdp` divides over 8 devices, and so over fewer.
      norms: batch normalisations.
      channels: that they normalise, together.
      macs: of an image.
    """

    params: int
    divided: int
    norms: int
    channels: int
    macs: int


def network_of(workload: Workload) -> Network:
    """Count what communication depends on."""
    classes, size = (1000, 224) if workload.data == "imagenet2012" else (10, 32)
    model = create_model(workload.network, classes)
    info = model_info(workload.network, classes, input_shape=(size, size, 3))
    images = jax.ShapeDtypeStruct((1, size, size, 3), "float32")
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    means = [
        x
        for path, x in jax.tree_util.tree_leaves_with_path(variables["batch_stats"])
        if path[-1].key == "mean"
    ]
    params = jax.tree.leaves(variables["params"])
    return Network(
        params=info.params,
        divided=sum(math.prod(x.shape) for x in params if mesh_lib.divided_axis(x.shape, 8) >= 0),
        norms=len(means),
        channels=sum(x.size for x in means),
        macs=info.macs,
    )


def state_bytes(network: Network, kind: str, devices: int) -> float:
    """Return the bytes of parameters, momentum and two running averages of each channel."""
    divided = network.divided if kind == "fsdp" else 0
    return 8 * (network.params - divided + divided / devices) + 8 * network.channels


def reduced_bytes(network: Network) -> int:
    """Return the bytes of all-reduces: gradients, and two sums of each channel, both ways."""
    return 4 * network.params + 16 * network.channels


def gathered_bytes(network: Network, kind: str) -> int:
    """Return the bytes of all-gathers: the parameters that are divided."""
    return 4 * network.divided if kind == "fsdp" else 0


def seconds(network: Network, workload: Workload, system: System, devices: int) -> dict[str, float]:
    """Return the seconds of a step: computation, gradients and gathered parameters, statistics."""
    compute = 6 * network.macs * workload.batch / (UTILISATION * system.flops)
    if devices == 1:
        return {"compute": compute, "gradients": 0.0, "statistics": 0.0}
    # A ring moves each byte twice past each device; latencies add up over its dimensions.
    moved = 2 * (devices - 1) / devices / system.bandwidth
    hops = 2 * math.ceil(math.log2(devices))
    return {
        "compute": compute,
        "gradients": 4 * network.params * moved + hops * LATENCY,
        "statistics": 16 * network.channels * moved + 2 * network.norms * hops * LATENCY,
    }


def predicted() -> Iterator[dict[str, Any]]:
    """Return the efficiency of each network on each system, against devices that work alone."""
    for workload in WORKLOADS:
        network = network_of(workload)
        for system in SYSTEMS:
            for devices in (n for n in DEVICES if n <= system.most):
                parts = seconds(network, workload, system, devices)
                compute, gradients, statistics = parts.values()
                # Gradients can be summed while the backward pass, two thirds of a step, goes on;
                # with the statistics each layer has to wait for them.
                hidden = max(0.0, gradients - compute * 2 / 3)
                yield {
                    "network": workload.network,
                    "batch_per_device": workload.batch,
                    "system": system.name,
                    "devices": devices,
                    "compute_ms": f"{1e3 * compute:.4g}",
                    "gradients_ms": f"{1e3 * gradients:.4g}",
                    "statistics_ms": f"{1e3 * statistics:.4g}",
                    "efficiency": f"{compute / (compute + statistics + gradients):.3f}",
                    "efficiency_overlapped": f"{compute / (compute + statistics + hidden):.3f}",
                    "efficiency_device_statistics": f"{compute / (compute + hidden):.3f}",
                }


def compiled(workload: Workload, kind: str, devices: int) -> dict[str, Any]:
    """Return the result of the dry run."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "found.json")
        flags = {
            "config": "configs/default.py",
            "config.model.name": workload.network,
            "config.data.name": workload.data,
            "config.batch_size": COMPILED_BATCH * devices,
            "config.sharding": kind,
            "devices": devices,
            "json": file,
        }
        if workload.data == "imagenet2012":
            flags["config.data.image_size"] = workload.image_size
        command = [sys.executable, "-m", "aggnets_jax", "dry-run"]
        command += [f"--{name}={value}" for name, value in flags.items()]
        if subprocess.run(command, cwd=HERE.parent, stdout=subprocess.DEVNULL).returncode:
            raise UserError(f"failed: {' '.join(command)}")
        return json.loads(file.read_text())


def compiled_rows() -> Iterator[dict[str, Any]]:
    """Compiled programs beside the model."""
    for workload in WORKLOADS:
        network = network_of(workload)
        for kind, devices in [("replicated", n) for n in (1, 2, 4, 8)] + [("fsdp", 2), ("fsdp", 8)]:
            found = compiled(workload, kind, devices)
            sums = {name: each["bytes"] for name, each in found["collectives"].items()}
            communicates = devices > 1
            yield {
                "network": workload.network,
                "sharding": kind,
                "devices": devices,
                "state_mb": f"{found['state_bytes'] / 1e6:.4g}",
                "state_mb_model": f"{state_bytes(network, kind, devices) / 1e6:.4g}",
                "all_reduce_mb": f"{sums.pop('all-reduce', 0) / 1e6:.4g}",
                "all_reduce_mb_model": f"{communicates * reduced_bytes(network) / 1e6:.4g}",
                "all_gather_mb": f"{sums.pop('all-gather', 0) / 1e6:.4g}",
                "all_gather_mb_model": f"{communicates * gathered_bytes(network, kind) / 1e6:.4g}",
                "other_mb": f"{sum(sums.values()) / 1e6:.4g}",
                "gflop": f"{found['flops'] / 1e9:.4g}",
                "gflop_model": f"{6 * network.macs * COMPILED_BATCH / 1e9:.4g}",
            }


def timed() -> Iterator[dict[str, Any]]:
    """Return steps of simulated devices, data parallel with global statistics, beside the model.

    N devices on the same cores compute N times as long as one; to that the model adds what the
    all-reduces of a step take, each of the two kinds timed alone.
    """
    for workload in WORKLOADS:
        network = network_of(workload)
        alone = step_seconds(workload, 1)
        for devices in (1, 2, 4, 8):
            step = alone if devices == 1 else step_seconds(workload, devices)
            gradients = all_reduce_seconds(devices, network.params, 1)
            statistics = all_reduce_seconds(
                devices, round(2 * network.channels / network.norms), 2 * network.norms
            )
            model = devices * alone + gradients + statistics
            yield {
                "network": workload.network,
                "batch_per_device": TIMED_BATCH,
                "devices": devices,
                "step_ms": f"{1e3 * step:.4g}",
                "step_ms_model": f"{1e3 * model:.4g}",
                "gradients_ms": f"{1e3 * gradients:.4g}",
                "statistics_ms": f"{1e3 * statistics:.4g}",
                "efficiency": f"{devices * alone / step:.3f}",
                "efficiency_model": f"{devices * alone / model:.3f}",
            }


def step_seconds(workload: Workload, devices: int) -> float:
    """Return the seconds of a step by the benchmark, in a process with so many devices."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.json")
        command = [sys.executable, "-m", "aggnets_jax", "benchmark", f"--models={workload.network}"]
        command += [f"--batch_size={TIMED_BATCH * devices}", f"--image_size={workload.image_size}"]
        command += ["--steps_per_dispatch=1", "--repeats=5", "--seconds=5", f"--json={file}"]
        devices_here = {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
        run = subprocess.run(
            command, cwd=HERE.parent, env=os.environ | devices_here, stdout=subprocess.DEVNULL
        )
        if run.returncode:
            raise UserError(f"failed: {' '.join(command)}")
        (row,) = json.loads(file.read_text())["rows"]
        return row["ms"] / 1e3


def all_reduce_seconds(devices: int, size: int, count: int) -> float:
    """Return the fewest seconds of some all-reduces, one after another, of `size` floats each."""
    if devices == 1:
        return 0.0
    mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices])

    def one_after_another(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, count, lambda _, x: jax.lax.pmean(x, "data"), x)

    everywhere = PartitionSpec()
    run = jax.jit(
        jax.shard_map(
            one_after_another, mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False
        )
    )
    x = jax.device_put(jnp.ones(size), mesh_lib.replicated(mesh))
    jax.block_until_ready(run(x))
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        jax.block_until_ready(run(x))
        seconds.append(time.perf_counter() - began)
    return min(seconds)


TABLES: dict[str, tuple[str, Callable[[], Iterator[dict[str, Any]]]]] = {
    "predicted": ("scaling_predicted.csv", predicted),
    "compiled": ("scaling.csv", compiled_rows),
    "timed": ("scaling_timed.csv", timed),
}


def write(file: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Write a table, and print its rows as they are made."""
    unfinished, written = file.with_suffix(".unfinished"), []
    for row in rows:
        written.append(row)
        write_csv(unfinished, written)
        print(*row.values(), flush=True)
    unfinished.replace(file)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the tables."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--tables", default=",".join(TABLES), help="tables to write; default all: %(default)s"
    )
    parser.add_argument("--output", default=str(HERE), help="folder; default %(default)s")
    given = parser.parse_args(arguments)
    tables = given.tables.split(",")
    for table in tables:
        if table not in TABLES:
            raise unknown("table", table, TABLES)
    if not Path(given.output).is_dir():
        raise UserError(f"--output {given.output} is no folder")
    if "timed" in tables:  # the all-reduces of up to 8 devices, in this process
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", 8)
    for table in tables:
        name, rows = TABLES[table]
        write(Path(given.output, name), rows())


if __name__ == "__main__":
    sys.exit(exit_code(main))
