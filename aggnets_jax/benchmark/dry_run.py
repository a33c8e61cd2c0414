"""Compile the train step of a config for simulated devices, and report its cost."""

import math
import re
from pathlib import Path
from typing import Any

import ml_collections
from rich.console import Console
from rich.table import Table

from aggnets_jax import config as config_lib
from aggnets_jax.errors import UserError
from aggnets_jax.files import write_json
from aggnets_jax.reports import experiments

_COLLECTIVE = re.compile(
    r"= (.+?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
_ARRAY = re.compile(r"([a-z]+)(\d+)\[([\d,]*)\]")


def dry_run(config: ml_collections.ConfigDict, devices: int) -> dict[str, Any]:
    """Compiles a train step over all devices of this process.

    Args:
      config: resolved.
      devices: how many these are.

    Returns:
      Of a device and a step: `state_bytes`, `allocated_bytes` (with batch and temporaries),
      `temporary_bytes`, `flops`, as XLA counts them, `model_flops` (two for each of three passes'
      multiply-adds), and `collectives`, for each kind its `count` and the `bytes` of its results;
      and `params`. `flops` and `collectives` count what is in a loop, of accumulation or of scanned
      layers, once.

    Raises:
      UserError: for a config that fits no run, or batches that the devices can't share.
    """
    # Here, since JAX is imported with them, which --help can do without.
    import jax
    import jax.numpy as jnp

    from aggnets_jax import data
    from aggnets_jax.layers.convolution import native
    from aggnets_jax.models import count, create_configured_model
    from aggnets_jax.runtime import mesh as mesh_lib
    from aggnets_jax.runtime.compilation import allocated_bytes, compiler_options
    from aggnets_jax.training.optimizer import make_optimizer
    from aggnets_jax.training.regularisation_schedules import make_strength
    from aggnets_jax.training.state import create_state, over_seeds
    from aggnets_jax.training.step import make_train_step

    mesh_lib.check_divisible("batch_size", config.batch_size, devices, config.accumulation_steps)
    num_classes, image_shape, num_train = _facts(config)
    model = create_configured_model(config, num_classes)
    macs = sum(part.macs for part in count(model, image_shape).values())
    total_steps = config_lib.total_steps(config, num_train)
    optimizer, _ = make_optimizer(config, total_steps, num_train / config.batch_size)
    strength = make_strength(config, total_steps, num_train / config.batch_size)

    mesh = mesh_lib.make_mesh()
    by_example = mesh_lib.by_example(mesh)
    shapes = jax.eval_shape(lambda: create_state(model, optimizer, config, image_shape, strength))
    placed = mesh_lib.of_state(mesh, shapes, config.sharding, leading=config.num_seeds > 1)
    state = jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes, placed
    )
    batch = {
        name: jax.ShapeDtypeStruct((config.batch_size, *shape), dtype, sharding=by_example)
        for name, (shape, dtype) in {
            "image": (image_shape, jnp.float32),
            **dict.fromkeys(("label", "epoch", "index"), ((), jnp.int32)),
        }.items()
    }
    step = make_train_step(model, optimizer, data.as_they_are, config, strength=strength, mesh=mesh)
    with native():
        compiled = (
            jax.jit(
                over_seeds(step, config.num_seeds, (0, None)),
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
    """How often a compiled program communicates in each way, and the bytes of the results.

    Args:
      program: in the text form of HLO; that of one device.
    """
    found: dict[str, dict[str, int]] = {}
    for results, kind in _COLLECTIVE.findall(program):
        sums = found.setdefault(kind, {"count": 0, "bytes": 0})
        sums["count"] += 1
        for _, bits, sizes in _ARRAY.findall(results):
            elements = math.prod(int(size) for size in sizes.split(",") if size)
            sums["bytes"] += elements * int(bits) // 8
    return found


def _facts(config: ml_collections.ConfigDict) -> tuple[int, tuple[int, int, int], int]:
    """Classes, shape of the images and training examples; with the data only where it must be."""
    try:
        known = experiments.known_data(config)
        return known.num_classes, known.image_shape, experiments.num_train(config)
    except UserError:
        from aggnets_jax import data

        info = data.describe(config.data)
        return info.num_classes, info.image_shape, info.num_train


def _table(found: dict[str, Any]) -> Table:
    table = Table(title="of each device, a step")
    table.add_column("")
    table.add_column("", justify="right")
    rows = {
        "state": f"{found['state_bytes'] / 1e6:,.1f} MB",
        "temporary memory": f"{found['temporary_bytes'] / 1e6:,.1f} MB",
        "memory in all": f"{found['allocated_bytes'] / 1e6:,.1f} MB",
        "FLOPs, of the network": f"{found['model_flops'] / 1e9:,.2f} G",
        "FLOPs, as XLA counts": f"{found['flops'] / 1e9:,.2f} G",
    }
    for kind, sums in found["collectives"].items():
        rows[kind] = f"{sums['count']} with {sums['bytes'] / 1e6:,.3f} MB"
    if not found["collectives"]:
        rows["collectives"] = "none"
    for row in rows.items():
        table.add_row(*row)
    return table


def report(
    config: ml_collections.ConfigDict, processes: int, devices_each: int, file: Path | None
) -> None:
    """Compile a train step for simulated devices, print its cost, and write it as JSON.

    Args:
      config: resolved.
      processes: number of processes.
      devices_each: devices of each process.
      file: for the JSON; None writes none.

    Raises:
      UserError: as `dry_run`.
    """
    import jax

    devices = processes * devices_each
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    found = {"processes": processes, "devices": devices, **dry_run(config, devices)}
    network, batch = config.model.name, config.batch_size
    print(
        f"{network}: {found['params']:,} parameters, {config.sharding}; batches of {batch} over"
        f" {processes} x {devices_each} devices, {batch // devices} on each"
    )
    Console().print(_table(found))
    if config.accumulation_steps > 1 or config.model.scan:
        print("collectives, and what XLA counts, are those of one turn of each loop")
    if file is not None:
        write_json(file, found)
