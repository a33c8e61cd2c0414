"""`train_and_evaluate(config, workdir)`: the whole loop, top to bottom."""

import datetime
import itertools
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from aggnets_jax import config as config_lib
from aggnets_jax import data, sharding
from aggnets_jax.checkpoint import Checkpoints, Progress
from aggnets_jax.clock import Clock
from aggnets_jax.errors import Diverged, Stopped
from aggnets_jax.evaluate import evaluate, make_eval_step, print_evaluation
from aggnets_jax.metrics import MetricLog, parameter_table
from aggnets_jax.models import count, create_configured_model
from aggnets_jax.optimizer import make_optimizer
from aggnets_jax.preemption import StopRequest
from aggnets_jax.profile import Profile
from aggnets_jax.step import Totals, create_state, make_train_step
from aggnets_jax.summary import fingerprint, peak_memory, print_overview, versions
from aggnets_jax.workdir import CONFIG, open_workdir, write_json


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
    with StopRequest() as stop:
        # ---- What can be wrong with the config, with this data and these devices.
        config = config_lib.resolve(config)
        config_json = config_lib.to_json(config)
        mesh = sharding.make_mesh()
        parts = mesh.size * config.accumulation_steps
        sharding.check_divisible("batch_size", config.batch_size, parts)
        sharding.check_divisible("eval_batch_size", config.eval_batch_size, mesh.size)
        info = data.describe(config.data)
        model = create_configured_model(config, info.num_classes)
        counts = count(model, info.image_shape)
        network = {
            "name": config.model.name,
            "links": sum(topology.num_links for topology in model.topologies),
            "params": sum(part.params for part in counts.values()),
            "macs": sum(part.macs for part in counts.values()),
        }
        optimizer, schedule = make_optimizer(config)

        with (
            open_workdir(workdir, config_json) as workdir,
            Checkpoints(workdir, keep=config.keep_checkpoints, config=config_json) as checkpoints,
            Profile(config.profile_steps, workdir / "profile") as profile,
        ):
            # ---- The state: that of the newest checkpoint, or a new one.
            everywhere = sharding.replicated(mesh)
            state = jax.jit(
                lambda: create_state(model, optimizer, config, info.image_shape),
                out_shardings=everywhere,
            )()
            zero_totals = jax.device_put(Totals.zeros(), everywhere)
            progress = Progress()
            if restored := checkpoints.restore(state):
                state, progress = restored
            start = step = lap_began = int(state.step)

            print_overview(network, counts, model.topologies)
            print(
                f"{info.name}: {info.num_train:,} + {info.num_eval:,} images of"
                f" {'x'.join(map(str, info.image_shape))}, {info.num_classes} classes;"
                f" {mesh.size} {jax.devices()[0].device_kind} device(s)"
                + (f"; continuing after step {start} of {config.total_steps}" if start else ""),
                flush=True,
            )

            # ---- What runs: batches, the evaluation, the compiled step.
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
            if start < config.total_steps:
                first = next(batches)
                batches = itertools.chain([first], batches)
                began = time.perf_counter()
                train_step = jax.jit(
                    make_train_step(model, optimizer, preprocess, config),
                    donate_argnums=0,
                    out_shardings=everywhere,
                )
                train_step = train_step.lower(state, first).compile()
                progress.compile_seconds = time.perf_counter() - began

            # ---- Nothing was written so far; now the workdir is that of this config.
            write_json(workdir / CONFIG, config_json)
            (workdir / "parameters.txt").write_text(parameter_table(state.params) + "\n")
            with MetricLog(workdir, progress.lines) as log:
                clock = Clock(progress.images, progress.seconds)
                while True:
                    last = step == config.total_steps

                    # ---- Evaluate. A run that is asked to stop does so when it goes on.
                    due = last or (step > 0 and step % config.eval_every_steps == 0)
                    if due and progress.evaluated < step:
                        _check_finite(state.totals)
                        with clock.paused():
                            metrics = evaluate(
                                eval_step, state.variables, eval_batches, lambda: bool(stop.signal)
                            )
                        if metrics is not None:
                            progress.evaluated = step
                            progress.final = metrics = {"step": step, **metrics}
                            _log_evaluation(log, metrics)
                            if not progress.best or (
                                metrics["accuracy"] > progress.best["accuracy"]
                            ):
                                progress.best = metrics
                                with clock.paused():
                                    checkpoints.save_best(state, progress)

                    # ---- Save. What was logged must be on the disk before.
                    due = last or stop.signal or step % config.checkpoint_every_steps == 0
                    if due and step > start:
                        _check_finite(state.totals)
                        with clock.paused():
                            progress.lines = log.flush()
                            progress.images, progress.seconds = clock.images, clock.seconds
                            progress.peak_memory_bytes = peak_memory(train_step)
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
                    profile.before(step + 1)
                    state = train_step(state, batch)
                    step += 1
                    profile.after(step, state)

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

        # ---- All checkpoints are saved.
        summary = {
            "steps": step,
            "final": progress.final,
            "best": progress.best,
            "images_per_second": clock.images_per_second,
            "compile_seconds": progress.compile_seconds,
            "peak_memory_bytes": progress.peak_memory_bytes,
            "network": network,
            "devices": f"{mesh.size} x {jax.devices()[0].device_kind}",
            "versions": versions(),
            "fingerprint": fingerprint(state.params),
        }
        write_json(workdir / "summary.json", summary)
        return summary


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


def _log_evaluation(log: MetricLog, metrics: Mapping[str, Any]) -> None:
    print_evaluation(metrics)
    if not math.isfinite(metrics["loss"]):
        raise Diverged(f"the loss of the evaluation is not finite at step {metrics['step']}")
    logged = ("loss", "accuracy", "accuracy_top5")
    log.write(metrics["step"], {f"eval/{name}": metrics[name] for name in logged})


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
