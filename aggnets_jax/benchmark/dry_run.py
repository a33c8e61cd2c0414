"""Compile the train step of a config for simulated devices, and report its cost."""

import math
import re
from pathlib import Path
from typing import Any

import jax
import ml_collections

from aggnets_jax.data import as_they_are
from aggnets_jax.data.known import known_data, num_train
from aggnets_jax.errors import UserError
from aggnets_jax.files import write_json
from aggnets_jax.layers.convolution import native
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.runtime.compilation import allocated_bytes, compiler_options
from aggnets_jax.tables import print_table
from aggnets_jax.tasks import get_task
from aggnets_jax.training.setup import DataSizes, set_up
from aggnets_jax.training.state import over_seeds

_COLLECTIVE = re.compile(
    r"= (.+?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
_ARRAY = re.compile(r"([a-z]+)(\d+)\[([\d,]*)\]")


def dry_run(config: ml_collections.ConfigDict, devices: int) -> dict[str, Any]:
    """Compile a resolved config's train step over all devices of this process.

    Returns:
      `params`; and for each device and step: `state_bytes`, `allocated_bytes` (with batch and
      temporaries), `temporary_bytes`, `flops` as XLA counts them, `model_flops` (two for each
      multiply-add of three passes), and `collectives`, the `count` and result `bytes` of each kind.
      `flops` and `collectives` count the body of a loop, over accumulated batches or scanned
      layers, once.

    Raises:
      UserError: for a config of no valid run, or batches that the devices can't divide.
    """
    mesh = mesh_lib.make_mesh()
    task = get_task(config)
    try:
        known = known_data(config)
        sizes = DataSizes(known.num_classes, known.image_shape, num_train(config))
    except UserError:  # the sizes are not known without opening the data set
        sizes = task.describe(config)
    setup = set_up(config, task, info=sizes, mesh=mesh)
    macs = setup.network_summary["macs"]
    placed = setup.state_sharding(mesh)
    shapes = setup.state_shapes()
    state = jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes, placed
    )
    over_batch = mesh_lib.batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct((config.batch_size, *shape), dtype, sharding=over_batch)
        for name, (shape, dtype) in task.batch_shapes(config, sizes.image_shape).items()
    }
    with native():
        compiled = (
            jax.jit(
                over_seeds(setup.train_step(as_they_are, mesh), config.num_seeds, (0, None)),
                donate_argnums=0,
                out_shardings=placed,
                compiler_options=compiler_options(),
            )
            .lower(state, batch)
            .compile()
        )
    return {
        "params": sum(math.prod(x.shape) for x in jax.tree.leaves(shapes.params)),
        "state_bytes": mesh_lib.bytes_per_device(state),
        "allocated_bytes": allocated_bytes(compiled),
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "flops": compiled.cost_analysis()["flops"],
        "model_flops": 6 * macs * config.batch_size * config.num_seeds // devices,
        "collectives": collectives(compiled.as_text()),
    }


def collectives(program: str) -> dict[str, dict[str, int]]:
    """Return the count and result bytes of each kind of collective in one device's HLO text."""
    found: dict[str, dict[str, int]] = {}
    for results, kind in _COLLECTIVE.findall(program):
        sums = found.setdefault(kind, {"count": 0, "bytes": 0})
        sums["count"] += 1
        for _, bits, sizes in _ARRAY.findall(results):
            elements = math.prod(int(size) for size in sizes.split(",") if size)
            sums["bytes"] += elements * int(bits) // 8
    return found


def _print_costs(found: dict[str, Any]) -> None:
    rows = {
        "state": f"{found['state_bytes'] / 1e6:,.1f} MB",
        "temporary memory": f"{found['temporary_bytes'] / 1e6:,.1f} MB",
        "total memory": f"{found['allocated_bytes'] / 1e6:,.1f} MB",
        "FLOPs, of the network": f"{found['model_flops'] / 1e9:,.2f} G",
        "FLOPs, as XLA counts": f"{found['flops'] / 1e9:,.2f} G",
    }
    for kind, sums in found["collectives"].items():
        rows[kind] = f"{sums['count']} with {sums['bytes'] / 1e6:,.3f} MB"
    if not found["collectives"]:
        rows["collectives"] = "none"
    print_table([{"each device, a step": k, "": v} for k, v in rows.items()])


def report(
    config: ml_collections.ConfigDict, processes: int, devices_each: int, file: Path | None
) -> None:
    """Print the cost of a train step on simulated devices as `dry_run`; write it to a JSON file."""
    devices = processes * devices_each
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    found = {"processes": processes, "devices": devices, **dry_run(config, devices)}
    network, batch = config.model.name, config.batch_size
    print(
        f"{network}: {found['params']:,} parameters, {config.sharding}; batches of {batch} over"
        f" {processes} x {devices_each} devices, {batch // devices} on each"
    )
    _print_costs(found)
    if config.accumulation_steps > 1 or config.model.scan:
        print("collectives and XLA's counts include one turn of each loop")
    if file is not None:
        write_json(file, found)
