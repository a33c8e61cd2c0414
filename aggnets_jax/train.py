"""`train_and_evaluate(config, workdir)`: the whole loop, top to bottom."""

import datetime
import hashlib
import importlib.metadata
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from rich.console import Console
from rich.table import Column, Table

import aggnets_jax
from aggnets_jax import config as config_lib
from aggnets_jax import data, sharding
from aggnets_jax.checkpoint import Checkpoints
from aggnets_jax.clock import Clock
from aggnets_jax.errors import Diverged, Stopped
from aggnets_jax.evaluate import evaluate, make_eval_step, print_evaluation
from aggnets_jax.metrics import MetricLog, parameter_table
from aggnets_jax.models import Count, count, create_model
from aggnets_jax.optimizer import make_optimizer
from aggnets_jax.preemption import StopRequest
from aggnets_jax.step import Totals, create_state, make_train_step
from aggnets_jax.topology import Topology
from aggnets_jax.workdir import open_workdir, write_json


def train_and_evaluate(
    config: ml_collections.ConfigDict | Mapping[str, Any], workdir: str | Path
) -> dict[str, Any]:
    """Trains a network, or goes on training it, and evaluates it.

    The result follows from the config alone: a run that was stopped at any moment and started
    again has the same parameters and metrics, to the bit, as one that was not.

    Args:
      config: what differs from `configs/default.py`, or a whole config.
      workdir: local directory for checkpoints, metrics and the summary; new, or that of a run of
        the same config, which is then continued.

    Returns:
      The content of `workdir/summary.json`: `steps`, `final` and `best` metrics,
      `images_per_second`, `compile_seconds`, `peak_memory_bytes`, `network` (`name`, `links`,
      `params`, `macs`), `versions`, `devices` and `fingerprint`, the SHA-256 of the parameters.

    Raises:
      UserError: for a config that fits no run; the workdir is then left as it was.
      Diverged: when the loss or a gradient is NaN or infinite.
      Stopped: after SIGTERM or SIGINT, when the state is saved.
    """
    # ---- Everything that can be wrong with the input, before anything is written.
    config = config_lib.resolve(config)
    config_json = config_lib.to_json(config)
    mesh = sharding.make_mesh()
    sharding.check_divisible("batch_size", config.batch_size, mesh.size * config.accumulation_steps)
    sharding.check_divisible("eval_batch_size", config.eval_batch_size, mesh.size)
    info = data.describe(config.data)
    model = create_model(
        config.model.name,
        info.num_classes,
        dtype=jnp.dtype(config.dtype),
        **config_lib.model_arguments(config),
    )
    counts = count(model, info.image_shape)
    network = {
        "name": config.model.name,
        "links": sum(topology.num_links for topology in model.topologies),
        "params": sum(part.params for part in counts.values()),
        "macs": sum(part.macs for part in counts.values()),
    }
    optimizer, schedule = make_optimizer(config)
    workdir = open_workdir(workdir, config_json)
    _print_overview(network, counts, model.topologies)
    print(
        f"{info.name}: {info.num_train:,} + {info.num_eval:,} images of"
        f" {'x'.join(map(str, info.image_shape))}, {info.num_classes} classes;"
        f" {mesh.size} {jax.devices()[0].device_kind} device(s)",
        flush=True,
    )

    with (
        StopRequest() as stop,
        Checkpoints(workdir, keep=config.keep_checkpoints, config=config_json) as checkpoints,
    ):
        # ---- The state: that of the newest checkpoint, or a new one.
        everywhere = sharding.replicated(mesh)
        state = jax.jit(
            lambda: create_state(model, optimizer, config, info.image_shape),
            out_shardings=everywhere,
        )()
        zero_totals = jax.device_put(Totals.zeros(), everywhere)
        progress = _new_progress()
        if restored := checkpoints.restore(state):
            state, progress = restored
            print(f"continuing after step {int(state.step)} of {config.total_steps}", flush=True)
        start = step = int(state.step)
        (workdir / "parameters.txt").write_text(parameter_table(state.params) + "\n")

        # ---- What runs: batches, the step (compiled when there is a batch), the evaluation.
        preprocess = data.make_preprocess(config.data, info, config.seed)
        batches = data.train_batches(
            config.data,
            batch_size=config.batch_size,
            seed=config.seed,
            start_step=start,
            sharding=sharding.by_example(mesh),
        )
        eval_batches = data.eval_batches(
            config.data, batch_size=config.eval_batch_size, sharding=sharding.by_example(mesh)
        )
        eval_step = make_eval_step(model, preprocess)
        train_step = jax.jit(
            make_train_step(model, optimizer, preprocess, config),
            donate_argnums=0,
            out_shardings=everywhere,
        )
        compiled, lap_began, profiling = None, start, False
        first_profiled, last_profiled = config.profile_steps or (None, None)
        clock = Clock(progress["images"], progress["seconds"])

        with MetricLog(workdir, progress["lines"]) as log:
            while True:
                last = step == config.total_steps

                # ---- Evaluate. A run that is asked to stop does so when it goes on.
                due = last or (step > 0 and step % config.eval_every_steps == 0)
                if due and progress["evaluated"] < step and not stop.signal:
                    _check_finite(state.totals)
                    with clock.paused():
                        metrics = {
                            "step": step,
                            **evaluate(eval_step, state.variables, eval_batches),
                        }
                        logged = ("loss", "accuracy", "accuracy_top5")
                        log.write(step, {f"eval/{name}": metrics[name] for name in logged})
                        print_evaluation(metrics)
                        progress |= {"evaluated": step, "final": metrics}
                        if metrics["accuracy"] > (progress["best"] or {"accuracy": -1})["accuracy"]:
                            progress["best"] = metrics
                            checkpoints.save_best(state, progress)

                # ---- Save. What was logged must be on the disk before.
                due = last or stop.signal or step % config.checkpoint_every_steps == 0
                if due and step > start:
                    _check_finite(state.totals)
                    with clock.paused():
                        progress |= {
                            "lines": log.flush(),
                            "images": clock.images,
                            "seconds": clock.seconds,
                            "peak_memory_bytes": _peak_memory(compiled),
                        }
                        checkpoints.save(state, progress)
                if stop.signal:
                    raise Stopped(
                        f"{stop.signal}: stopped after step {step};"
                        " the same command goes on from there"
                    )
                if last:
                    break

                # ---- Train one step.
                batch = next(batches)
                if compiled is None:
                    began = time.perf_counter()
                    compiled = train_step.lower(state, batch).compile()
                    progress["compile_seconds"] = time.perf_counter() - began
                    lap_began = step
                    clock.start()
                if step + 1 == first_profiled:
                    jax.profiler.start_trace(str(workdir / "profile"))
                    profiling = True
                state = compiled(state, batch)
                step += 1
                if profiling and step == last_profiled:
                    jax.block_until_ready(state)
                    jax.profiler.stop_trace()
                    profiling = False

                # ---- Log. This is where the host waits for the devices.
                if step % config.log_every_steps == 0 or step == config.total_steps:
                    _check_finite(state.totals)
                    metrics = _training_metrics(state.totals, config.batch_size)
                    metrics["train/learning_rate"] = float(schedule(step - 1))
                    speed = clock.lap((step - lap_began) * config.batch_size)
                    lap_began = step
                    log.write(step, metrics)
                    log.write_timing(step, {"train/images_per_second": speed})
                    _print_progress(step, config, metrics, speed)
                    state = state.replace(totals=jax.tree.map(jnp.copy, zero_totals))

        summary = {
            "steps": step,
            "final": progress["final"],
            "best": progress["best"],
            "images_per_second": clock.images_per_second,
            "compile_seconds": progress["compile_seconds"],
            "peak_memory_bytes": progress["peak_memory_bytes"],
            "network": network,
            "devices": f"{mesh.size} x {jax.devices()[0].device_kind}",
            "versions": versions(),
            "fingerprint": fingerprint(state.params),
        }
    write_json(workdir / "summary.json", summary)
    return summary


def _new_progress() -> dict[str, Any]:
    """What a checkpoint holds besides arrays: what was evaluated, logged and measured so far."""
    return {
        "evaluated": 0,
        "final": None,
        "best": None,
        "lines": {},
        "images": 0,
        "seconds": 0.0,
        "compile_seconds": None,
        "peak_memory_bytes": None,
    }


def _print_overview(
    network: Mapping[str, Any], counts: Mapping[str, Count], topologies: Sequence[Topology]
) -> None:
    links = {f"stage{i}": str(t.num_links) for i, t in enumerate(topologies, start=1)}
    table = Table("part", *(Column(c, justify="right") for c in ("links", "parameters", "MACs")))
    for name, part in counts.items():
        table.add_row(name, links.get(name, ""), f"{part.params:,}", f"{part.macs:,}")
    table.add_section()
    total = (f"{network[name]:,}" for name in ("links", "params", "macs"))
    table.add_row(network["name"], *total)
    Console().print(table)


def _check_finite(totals: Totals) -> None:
    first, bad = int(totals.first_nonfinite), int(totals.nonfinite_steps)
    if bad:
        more = f", and at {bad - 1} of the steps after it" if bad > 1 else ""
        raise Diverged(f"loss or gradient is not finite at step {first}{more}")


def _training_metrics(totals: Totals, batch_size: int) -> dict[str, float]:
    totals = jax.device_get(totals)
    return {
        "train/loss": float(totals.loss / totals.steps),
        "train/accuracy": int(totals.correct) / (int(totals.steps) * batch_size),
    }


def _print_progress(
    step: int, config: ml_collections.ConfigDict, metrics: Mapping[str, float], speed: float
) -> None:
    left = datetime.timedelta(
        seconds=round((config.total_steps - step) * config.batch_size / speed)
    )
    print(
        f"step {step:>{len(str(config.total_steps))}}/{config.total_steps}"
        f"  loss {metrics['train/loss']:.4f}  accuracy {metrics['train/accuracy']:.2%}"
        f"  lr {metrics['train/learning_rate']:.4g}  {speed:,.0f} images/s  ETA {left}",
        flush=True,
    )


def _peak_memory(compiled: jax.stages.Compiled) -> int | None:
    """Bytes on one device: as the device counts them, else what XLA allocates for a step."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    memory = compiled.memory_analysis()
    return memory and (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )


def fingerprint(params: Any) -> str:
    """SHA-256 over the parameters, in the order of their paths: names, dtypes, shapes, bytes."""
    digest = hashlib.sha256()
    leaves = {jax.tree_util.keystr(k): v for k, v in jax.tree_util.tree_leaves_with_path(params)}
    for path in sorted(leaves):
        array = np.asarray(leaves[path])
        digest.update(f"{path} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


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
        **{name: importlib.metadata.version(name) for name in packages},
    }
