"""Compiles the train step of a config for devices that are not there, and says what it takes.

python -m aggnets_jax.benchmark.dry_run --config=configs/hcgnet/table3.py:hcgnet_b

XLA compiles it for as many simulated devices, of the CPU, with the convolutions of accelerators. So
collectives and FLOPs are those of a pod; its compiler fuses and lays out arrays in another way, and
takes somewhat more or less memory.
"""

import argparse
import math
import re
import sys
from collections.abc import Sequence
from typing import Any

import ml_collections
from rich.console import Console
from rich.table import Table

from aggnets_jax import config as config_lib
from aggnets_jax.arguments import check_whole_number
from aggnets_jax.cli import Parser, exit_code
from aggnets_jax.errors import UserError
from aggnets_jax.files import local_path, write_json
from aggnets_jax.reports import experiments

_COLLECTIVE = re.compile(
    r"= (.+?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
_ARRAY = re.compile(r"([a-z]+)(\d+)\[([\d,]*)\]")


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Parses a command line: its flags, and the overrides of the config."""
    parser = Parser(
        prog="python -m aggnets_jax.benchmark.dry_run",
        description=__doc__.partition("\n")[0],
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="config file; also --config.lr=0.2")
    parser.add_argument("--processes", type=int, default=1, help="default 1")
    parser.add_argument("--devices", type=int, default=8, help="of each process; default 8")
    parser.add_argument("--json", help="file to write")
    flags, overrides = parser.parse_with_overrides(arguments)
    check_whole_number("processes", flags.processes, 1)
    check_whole_number("devices", flags.devices, 1)
    if flags.json is not None:
        file = local_path(flags.json)
        if file.is_dir() or not file.parent.is_dir():
            raise UserError(f"{flags.json} can't be written: it is a folder, or in none")
    return flags, overrides


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
    batch_sharding = mesh_lib.batch_sharding(mesh)
    shapes = jax.eval_shape(lambda: create_state(model, optimizer, config, image_shape, strength))
    placed = mesh_lib.state_sharding(mesh, shapes, config.sharding, leading=config.num_seeds > 1)
    state = jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes, placed
    )
    batch = {
        name: jax.ShapeDtypeStruct((config.batch_size, *shape), dtype, sharding=batch_sharding)
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


def run(arguments: Sequence[str] | None = None) -> None:
    """Does what the command line says."""
    flags, overrides = parse(arguments)
    import jax

    config = config_lib.load(flags.config, overrides)
    devices = flags.processes * flags.devices
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    found = {"processes": flags.processes, "devices": devices, **dry_run(config, devices)}
    network, batch = config.model.name, config.batch_size
    print(
        f"{network}: {found['params']:,} parameters, {config.sharding}; batches of {batch} over"
        f" {flags.processes} x {flags.devices} devices, {batch // devices} on each"
    )
    Console().print(_table(found))
    if config.accumulation_steps > 1 or config.model.scan:
        print("collectives, and what XLA counts, are those of one turn of each loop")
    if flags.json is not None:
        write_json(local_path(flags.json), found)


if __name__ == "__main__":
    sys.exit(exit_code(run))
