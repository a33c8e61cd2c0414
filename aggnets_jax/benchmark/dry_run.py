"""Compile the steps of a config for devices that this machine lacks, and report their cost."""

import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from aggnets_jax import config as config_lib
from aggnets_jax.benchmark.hlo import collectives, memory_bytes, moved_bytes
from aggnets_jax.benchmark.targets import Chip, Target, open_target
from aggnets_jax.errors import UserError, one_line
from aggnets_jax.evaluate import make_eval_step
from aggnets_jax.files import write_json
from aggnets_jax.layers.convolution import native
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.runtime.compilation import (
    allocated_bytes,
    backend,
    compile_for,
    compiler_options,
)
from aggnets_jax.runtime.memory import is_out_of_memory
from aggnets_jax.runtime.notes import note
from aggnets_jax.tables import print_table
from aggnets_jax.tasks import get_task
from aggnets_jax.training.setup import Setup, set_up
from aggnets_jax.training.state import over_seeds

# The memory that a TPU's compiler says a program needs, and the memory that there is.
_NEEDED = re.compile(r"\(([\d.]+[KMGT])\) exceeds available HBM \(([\d.]+[KMGT])\)")


class DoesNotFit(UserError):
    """A step needs more memory than a device has."""


def dry_run(config: ml_collections.ConfigDict, target: Target | None = None) -> dict[str, Any]:
    """Compile a resolved config's steps for a target, or for the simulated devices here.

    Returns:
      `devices`, `params`, and the costs of a training step; for each device and step:
      `state_bytes`, `allocated_bytes` (with batch and temporaries), `temporary_bytes`; `flops` and
      `bytes` read and written, as XLA counts them or None; `model_flops` (two for each multiply-add
      of three passes) and `model_bytes` (the inputs and outputs of convolutions, once in each of
      three passes); `memory_bytes`, the part of `bytes` in a TPU's HBM, else None; `collectives` as
      `hlo.collectives` returns them, and `compile_seconds`. The counts include the body of a loop,
      over accumulated batches or scanned layers, once. With a target there are also the `roofline`,
      see `roofline`, and `evaluation`, the costs of an evaluation step.

    Raises:
      DoesNotFit: if the target's compiler finds that a step needs too much memory.
      UserError: for a config of no valid run, or batches that the devices can't divide.
    """
    mesh = mesh_lib.make_mesh(config.slices, target and target.devices)
    task = get_task(config)
    try:
        info = task.describe_known(config)
    except UserError:  # the sizes are not known without opening the data set
        info = None
    with compile_for(target.platform) if target else native():
        setup = set_up(config, task, info=info, mesh=mesh)
        if target:
            mesh_lib.check_divisible(
                "config.eval_batch_size", setup.config.eval_batch_size, mesh.size
            )
        found = {
            "devices": mesh.size,
            "params": sum(x.size for x in jax.tree.leaves(setup.state_shapes().params)),
        }
        note(f"compiling for {mesh.size} devices")
        found |= _train_costs(setup, mesh)
        if target:
            found["evaluation"] = _evaluation_costs(setup, mesh)
    if target:
        for costs in (found, found["evaluation"]):
            costs["roofline"] = roofline(costs, target.chip, mesh.size, loops=_has_loops(config))
            # The compiler of a TPU has refused it before; a GPU's does not look.
            needed, there = costs["allocated_bytes"] / 1e9, target.chip.memory_bytes / 1e9
            if target.platform == "gpu" and needed > there:
                raise DoesNotFit(f"it does not fit: a step needs {needed:.2f} GB of {there:.0f} GB")
    return found


def _has_loops(config: ml_collections.ConfigDict) -> bool:
    return config.accumulation_steps > 1 or bool(config.model.scan)


def roofline(
    costs: Mapping[str, Any], chip: Chip, devices: int, *, loops: bool = False
) -> dict[str, float]:
    """Return the least seconds of a step for `arithmetic`, `memory` and `links`.

    The rates are published ones. A step takes at least the largest of the three. Collectives are in
    a ring over all devices. Where XLA counts no FLOPs and bytes, the network's own are taken; in a
    program with loops, of which XLA counts one turn, too, if they are more.

    Args:
      costs: costs of a step, see `dry_run`.
      chip: rates of a device.
      devices: number of devices.
      loops: whether the program has loops.
    """
    flops, memory = costs["flops"] or 0, costs["memory_bytes"] or 0
    if loops or not flops:
        flops = max(flops, costs["model_flops"])
    if loops or not memory:
        memory = max(memory, costs["model_bytes"])
    return {
        "arithmetic": flops / chip.flops,
        "memory": memory / chip.memory_bandwidth,
        "links": moved_bytes(costs["collectives"], devices) / chip.link_bandwidth,
    }


def _train_costs(setup: Setup, mesh: Mesh) -> dict[str, Any]:
    config, placed = setup.config, setup.state_sharding(mesh)
    state = mesh_lib.shapes_on(setup.state_shapes(), placed)
    preprocess = setup.task.make_preprocess(config, setup.info)
    step = jax.jit(
        over_seeds(setup.train_step(preprocess, mesh), config.num_seeds, (0, None)),
        donate_argnums=0,
        out_shardings=placed,
        compiler_options=compiler_options(),
    )
    costs = _costs(step, state, _batch(setup, mesh, train=True))
    own = _own_costs(setup, 3, config.batch_size // mesh.size)
    return {"state_bytes": mesh_lib.bytes_per_device(state), **costs, **own}


def _evaluation_costs(setup: Setup, mesh: Mesh) -> dict[str, Any]:
    config = setup.config
    variables = setup.state_shapes().variables  # a run copies them to each device
    variables = mesh_lib.shapes_on(variables, mesh_lib.replicated(mesh))
    preprocess = setup.task.make_preprocess(config, setup.info)
    step = make_eval_step(setup.task, setup.model, preprocess, config.num_seeds, mesh)
    costs = _costs(step, variables, _batch(setup, mesh, train=False))
    return costs | _own_costs(setup, 1, config.eval_batch_size // mesh.size)


def _own_costs(setup: Setup, passes: int, images: int) -> dict[str, int]:
    """Return the FLOPs and bytes that the network itself needs for the images of a device."""
    images *= setup.config.num_seeds
    features = sum(part.features for part in setup.counts.values())
    return {
        "model_flops": 2 * passes * setup.network_summary["macs"] * images,
        "model_bytes": passes * features * images * jnp.dtype(setup.config.dtype).itemsize,
    }


def _batch(setup: Setup, mesh: Mesh, *, train: bool) -> dict[str, jax.ShapeDtypeStruct]:
    size = setup.config.batch_size if train else setup.config.eval_batch_size
    fields = setup.task.batch_shapes(setup.info.image_shape, train=train)
    over_batch = mesh_lib.batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct((size, *shape), dtype, sharding=over_batch)
        for name, (shape, dtype) in fields.items()
    }


def _costs(jitted: Any, *arguments: Any) -> dict[str, Any]:
    """Compile a function and return the costs of its program on each device."""
    began = time.perf_counter()
    try:
        compiled = jitted.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        sizes = _NEEDED.search(str(error))
        text = f"{sizes[1]}iB of {sizes[2]}iB of each device" if sizes else one_line(error)
        raise DoesNotFit(f"it does not fit: a step needs {text}") from error
    counts = compiled.cost_analysis() or {}  # none for a GPU that is not here
    program = compiled.as_text()
    return {
        "compile_seconds": time.perf_counter() - began,
        "allocated_bytes": allocated_bytes(compiled),
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "flops": counts.get("flops"),
        "bytes": counts.get("bytes accessed"),
        "memory_bytes": memory_bytes(program) if backend() == "tpu" else None,
        "collectives": collectives(program),
    }


def smaller(config: ml_collections.ConfigDict, devices: int) -> Iterator[dict[str, Any]]:
    """Yield changes of a config that need less and less memory, first those with equal results.

    The number of devices divides each part of an accumulated batch.
    """
    remat = [kind for kind in ("norm", "layer") if kind != config.model.remat]
    yield from ({"model.remat": kind} for kind in remat)
    if config.sharding != "fsdp":
        yield {"model.remat": "layer", "sharding": "fsdp"}
    batch_size, parts = config.batch_size, config.accumulation_steps
    # Parts of one image are too small.
    while batch_size % (2 * devices * parts) == 0 and not batch_size == 2 * parts > 2:
        batch_size //= 2
        yield {"model.remat": "layer", "batch_size": batch_size}


def fit(
    config: ml_collections.ConfigDict, target: Target
) -> tuple[ml_collections.ConfigDict, dict[str, Any]]:
    """Return the config, or the first change of it that fits the target, and its `dry_run`.

    A line is printed for each config that is tried.

    Raises:
      UserError: if none fits; or as `dry_run`.
    """
    for changes in ({}, *smaller(config, len(target.devices))):
        flags = " ".join(f"--config.{name}={value}" for name, value in changes.items())
        changed = config_lib.resolve({**config_lib.to_json(config), **changes})
        try:
            found = dry_run(changed, target)
        except DoesNotFit as error:
            print(f"{flags or 'as the config is'}: {error}", flush=True)
        else:
            print(f"{flags or 'as the config is'}: it fits")
            return changed, found
    raise UserError("no change that was tried fits; use more devices or a smaller network")


def report(
    config: ml_collections.ConfigDict,
    processes: int,
    devices_each: int,
    file: Path | None,
    target_name: str | None = None,
    fitted: bool = False,
) -> None:
    """Print the costs of a config, and write them to a JSON file if one is given.

    Args:
      config: resolved config.
      processes: number of simulated processes, without a target.
      devices_each: number of simulated devices of each process, without a target.
      file: JSON file, or None.
      target_name: name of the target, see `open_target`, or None.
      fitted: whether the config is changed until it fits the target, see `fit`.
    """
    jax.config.update("jax_platforms", "cpu")
    target = None
    if target_name:
        target = open_target(target_name, config.slices or 1)
        where = {"target": target_name, "slices": config.slices or 1}
        config, found = fit(config, target) if fitted else (config, dry_run(config, target))
        devices = f"{found['devices']} chips of {target_name}"
    else:
        jax.config.update("jax_num_cpu_devices", processes * devices_each)
        where = {"processes": processes}
        found, devices = dry_run(config), f"{processes} x {devices_each} devices"
    found, batch = where | found, config.batch_size
    print(
        f"{config.model.name}: {found['params']:,} parameters, {config.sharding}; batches of"
        f" {batch} over {devices}, {batch // found['devices']} on each"
    )
    _print_costs(found, target)
    if _has_loops(config):
        print("collectives and XLA's counts include one turn of each loop")
    if file is not None:
        write_json(file, found)


def _print_costs(found: Mapping[str, Any], target: Target | None) -> None:
    columns = {"training": _rows(found, target)}
    if "evaluation" in found:
        columns["evaluation"] = _rows(found["evaluation"], target)
    names = dict.fromkeys(name for column in columns.values() for name in column)
    print_table(
        [
            {"each device, a step": row, **{k: v.get(row, "") for k, v in columns.items()}}
            for row in names
        ]
    )


def _rows(costs: Mapping[str, Any], target: Target | None) -> dict[str, str]:
    """Return the lines of the printed table, name and text."""
    rows = {}
    if "state_bytes" in costs:
        rows["state"] = f"{costs['state_bytes'] / 1e6:,.1f} MB"
    rows["temporary memory"] = f"{costs['temporary_bytes'] / 1e6:,.1f} MB"
    there = f" of {target.chip.memory_bytes / 1e6:,.0f}" if target else ""
    rows["total memory"] = f"{costs['allocated_bytes'] / 1e6:,.1f}{there} MB"
    rows["FLOPs, of the network"] = f"{costs['model_flops'] / 1e9:,.2f} G"
    if costs["flops"] is not None:
        rows["FLOPs, as XLA counts"] = f"{costs['flops'] / 1e9:,.2f} G"
    if target:
        rows["bytes, of the network"] = f"{costs['model_bytes'] / 1e6:,.1f} MB"
        if costs["bytes"] is not None:
            rows["bytes, as XLA counts"] = f"{costs['bytes'] / 1e6:,.1f} MB"
            rows["bytes, of these in HBM"] = f"{costs['memory_bytes'] / 1e6:,.1f} MB"
    for kind, sums in costs["collectives"].items():
        hidden = f", {sums['overlapped']} overlapped" if target else ""
        rows[kind] = f"{sums['count']} with {sums['bytes'] / 1e6:,.3f} MB{hidden}"
    if not costs["collectives"]:
        rows["collectives"] = "none"
    if target:
        times = costs["roofline"]
        rows |= {f"least time, {name}": f"{1e3 * value:,.3f} ms" for name, value in times.items()}
        rows["bound by"] = max(times, key=times.get)
        rows["compilation"] = f"{costs['compile_seconds']:,.0f} s"
    return rows
