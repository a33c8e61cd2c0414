"""`train_and_evaluate(config, workdir)`: the whole loop, top to bottom."""

import contextlib
import datetime
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from aggnets_jax import config as config_lib
from aggnets_jax import data
from aggnets_jax.connectivity.execution import with_loops
from aggnets_jax.convert.initialize import initial_variables
from aggnets_jax.errors import Stopped, UserError
from aggnets_jax.evaluate import evaluate, make_eval_step, print_evaluation
from aggnets_jax.files import write_json, write_text
from aggnets_jax.models import count, create_configured_model
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.runtime.compilation import compiler_options, count_cache_hits, fast_compile_options
from aggnets_jax.runtime.distributed import error_in_any, is_first, on_first_process
from aggnets_jax.runtime.mesh import replicate
from aggnets_jax.runtime.preemption import StopRequest
from aggnets_jax.training.metrics import evaluation_metrics, training_metrics
from aggnets_jax.training.optimizer import make_optimizer
from aggnets_jax.training.regularisation_schedules import make_strength
from aggnets_jax.training.state import (
    Totals,
    TrainState,
    at_seed,
    create_state,
    initial_state,
    over_seeds,
    seeds,
)
from aggnets_jax.training.step import default_steps_per_dispatch, make_train_step, make_train_steps
from aggnets_jax.workdir.checkpoint_writer import RunCheckpoints
from aggnets_jax.workdir.divergence import REPORT, check_evaluation, check_totals
from aggnets_jax.workdir.folder import CONFIG, open_workdir
from aggnets_jax.workdir.metric_log import MetricLog, parameter_table
from aggnets_jax.workdir.profiler import Profile
from aggnets_jax.workdir.progress import Clock, Progress
from aggnets_jax.workdir.provenance import (
    commit,
    fingerprint,
    hardware,
    peak_memory,
    print_overview,
    seed_summaries,
    versions,
)


def train_and_evaluate(
    config: ml_collections.ConfigDict | Mapping[str, Any],
    workdir: str | Path,
    *,
    allow_config_change: bool = False,
) -> dict[str, Any]:
    """Trains a network, or goes on training it, and evaluates it.

    The result follows from the config alone: a run that was stopped at any moment and started
    again has the same parameters and metrics, to the bit, as one that was not.

    Args:
      config: what differs from `configs/default.py`, or a whole config.
      workdir: local directory for checkpoints, metrics and the summary; new, or that of a run of
        the same config, which is then continued. Several processes share it.
      allow_config_change: whether the run so far may have had another config or data set; the
        summary then says what changed, and at which step.

    Returns:
      The content of `workdir/summary.json`: `steps`, `final` and `best` metrics,
      `images_per_second`, `compile_seconds`, `compile_seconds_saved` (None if the step was not in
      the compilation cache), `peak_memory_bytes` and `state_bytes` of a device, `network` (`name`,
      `links`, `params`, `macs`), `versions`, `devices`, `hardware`, `commit`, `config_changes`,
      `fingerprint`, the SHA-256 of the parameters, and `seeds`, for each its `final`, `best` and
      `fingerprint`.

    Raises:
      UserError: for a config that fits no run, and the workdir is then left as it was; for data
        that can't be read, and a process alone then saves the state.
      Diverged: when the loss or a gradient is NaN or infinite, at more steps than
        `config.skip_nonfinite_steps` allows.
      Stopped: after SIGTERM or SIGINT, when the state is saved.
      Unsaved: if the state that the run ends or stops with can't be saved.
      OSError: if another file of the workdir can't be written.
    """
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopRequest())

        # ---- What can be wrong with the config, with this data and these devices.
        config = config_lib.resolve(config)
        config_json = config_lib.to_json(config)
        mesh = mesh_lib.make_mesh()
        mesh_lib.check_divisible(
            "batch_size", config.batch_size, mesh.size, config.accumulation_steps
        )
        mesh_lib.check_divisible("eval_batch_size", config.eval_batch_size, mesh.size)
        info = data.describe(config.data)
        preprocess = data.make_preprocess(config.data, info)
        model = create_configured_model(config, info.num_classes)
        counts = count(model, info.image_shape)
        network = {
            "name": config.model.name,
            "links": sum(topology.num_links for topology in model.topologies),
            "params": sum(part.params for part in counts.values()),
            "macs": sum(part.macs for part in counts.values()),
        }
        total_steps = config_lib.total_steps(config, info.num_train)
        steps_per_epoch = info.num_train / config.batch_size
        optimizer, schedule = make_optimizer(config, total_steps, steps_per_epoch)
        strength = make_strength(config, total_steps, steps_per_epoch)

        opened = open_workdir(workdir, config_json, allow_config_change=allow_config_change)
        on_first_process(lambda: stack.enter_context(opened))
        workdir = Path(workdir).expanduser()
        checkpoints = stack.enter_context(
            RunCheckpoints(workdir, keep=config.keep_checkpoints, config=config_json, dataset=info)
        )
        profile = stack.enter_context(Profile(config.profile_steps, workdir / "profile"))

        # ---- The state: that of the newest checkpoint, or a new one, with given weights.
        everywhere = mesh_lib.replicated(mesh)

        def new_state(scan: bool = config.model.scan) -> TrainState:
            form = with_loops(model, scan)
            return create_state(form, optimizer, config, info.image_shape, strength)

        placed = mesh_lib.state_sharding(
            mesh, jax.eval_shape(new_state), config.sharding, leading=config.num_seeds > 1
        )
        state = jax.jit(new_state, out_shardings=placed, compiler_options=fast_compile_options())()
        zero_totals = jax.tree.map(jnp.copy, state.totals)
        progress = Progress()
        restored = checkpoints.restore(
            state,
            allow_config_change=allow_config_change,
            other_form=lambda: jax.eval_shape(partial(new_state, not config.model.scan)),
        )
        if restored:
            state, progress = restored
        elif config.init_from is not None:
            variables = {"params": state.params, "batch_stats": state.batch_stats}
            variables = initial_variables(config, info, variables, workdir)
            start_from = over_seeds(
                lambda variables, seed: initial_state(variables, optimizer, config, seed, strength),
                config.num_seeds,
            )
            # Compiled, so that no two arrays of the state share a buffer: they are donated.
            start_from = jax.jit(start_from, out_shardings=placed)
            state = start_from(variables, seeds(config))
        start = step = logged = state.updates
        if start > total_steps:
            raise UserError(f"the run has {start} steps already, and the config {total_steps}")
        if start < total_steps and (revision := commit()) not in (None, *progress.commits):
            progress.commits.append(revision)

        print_overview(network, counts, model.topologies)
        print(
            f"{info.name}: {info.num_train:,} + {info.num_eval:,} images of"
            f" {'x'.join(map(str, info.image_shape))}, {info.num_classes} classes;"
            f" {mesh.size} {jax.devices()[0].device_kind} device(s)"
            + (f" in {n} processes" if (n := jax.process_count()) > 1 else "")
            + f", {mesh_lib.bytes_per_device(state) / 1e6:.3g} MB of state on each"
            + (f"; continuing after step {start} of {total_steps}" if start else ""),
            flush=True,
        )

        # ---- What runs: batches, the evaluation, the compiled steps.
        intervals = [config[f"{what}_every_steps"] for what in ("log", "eval", "checkpoint")]
        eval_batches = data.eval_batches(
            config.data, batch_size=config.eval_batch_size, sharding=mesh_lib.batch_sharding(mesh)
        )
        eval_batches.check()
        eval_step = make_eval_step(model, preprocess, config.num_seeds)
        if start < total_steps:
            training = data.train_data(
                config.data,
                batch_size=config.batch_size,
                seeds=seeds(config),
                start_step=start,
                most_steps=min(steps_per_dispatch(config), total_steps, *intervals),
                sharding=mesh_lib.batch_sharding(mesh),
            )
            # How many steps a dispatch makes, on the devices.
            number = functools.cache(
                lambda steps: replicate(np.asarray(steps, np.int32), mesh_lib.batch_sharding(mesh))
            )
            # For the log: a program for each of its lines would wait for the steps.
            learning_rates = jax.device_get(jax.jit(jax.vmap(schedule))(np.arange(total_steps)))
            first = training.feed(start)
            began = time.perf_counter()
            train_step = make_train_step(
                model, optimizer, preprocess, config, strength=strength, mesh=mesh
            )
            train_steps = jax.jit(
                make_train_steps(train_step, training, config.num_seeds),
                donate_argnums=0,
                out_shardings=placed,
                compiler_options=compiler_options(),
            )
            with count_cache_hits() as hits:
                train_steps = train_steps.lower(state, first, number(1)).compile()
            progress.compile_seconds = time.perf_counter() - began
            progress.compile_seconds_saved = hits.seconds_saved if hits.programs else None
            _print_compilation(progress)

        # ---- Nothing of this config was written so far; now the workdir is its own.
        params = at_seed(state.params, 0, config.num_seeds)
        if is_first():
            write_json(workdir / CONFIG, config_json)
            if start < total_steps:  # what an earlier end of the run has said of it
                (workdir / "summary.json").unlink(missing_ok=True)
                (workdir / REPORT).unlink(missing_ok=True)
            write_text(workdir / "parameters.txt", parameter_table(params) + "\n")
        log = stack.enter_context(MetricLog(workdir, progress.lines, writes=is_first()))
        clock = Clock(progress.images, progress.seconds)
        # The sums of the log's next line, and after which step they were taken.
        due_line: tuple[int, Totals] | None = None

        def write_line() -> None:
            """Writes the line of the log that is due, if one is, when the devices have its sums."""
            nonlocal due_line, logged
            if due_line is None:
                return
            (at, totals), due_line = due_line, None
            check_totals(totals, config, workdir, mesh)
            metrics = training_metrics(totals, config)
            metrics["train/learning_rate"] = float(learning_rates[at - 1])
            speed = clock.lap((at - logged) * config.batch_size * config.num_seeds)
            logged = at
            log.write(at, metrics)
            log.write_timing(at, {"train/images_per_second": speed})
            _print_progress(at, total_steps, metrics, speed, config)

        def catch_up() -> None:
            """Waits for the devices; all steps so far are logged and finite then."""
            write_line()
            check_totals(state.totals, config, workdir, mesh)

        def save() -> None:
            """Begins to save the state; what was logged is on the disk before."""
            catch_up()
            with clock.paused():
                progress.images, progress.seconds = clock.images, clock.seconds
                progress.peak_memory_bytes = peak_memory(train_steps)
                if error := error_in_any(log.flush()):
                    checkpoints.note_failure(error, step)
                else:
                    progress.lines = log.lines
                    checkpoints.save(state, progress)

        stack.enter_context(_saving_before_an_error(lambda: step > start and save()))
        while True:
            last = step == total_steps
            stopping = stop.agreed(mesh)

            # ---- Evaluate. A run that is asked to stop does so when it goes on.
            due = last or (step > 0 and step % config.eval_every_steps == 0)
            if due and not stopping and progress.evaluated < step:
                catch_up()
                with clock.paused():
                    metrics = evaluate(
                        eval_step,
                        jax.device_put(state.variables, everywhere),
                        eval_batches,
                        lambda: stop.agreed(mesh) is not None,
                    )
                if metrics is None:
                    continue
                metrics = {"step": step, **metrics}
                print_evaluation(metrics)
                check_evaluation(metrics)
                log.write(step, evaluation_metrics(metrics, config))
                if progress.add_evaluation(metrics):
                    with clock.paused():
                        checkpoints.save_best(state, progress)

            # ---- Save.
            due = last or stopping or step % config.checkpoint_every_steps == 0
            if due and step > start:
                save()
            if last or stopping:
                checkpoints.finish()
            if stopping:
                raise Stopped(
                    f"{stopping}: stopped after step {step}; the same command goes on from there"
                )
            if last:
                break

            # ---- Train, up to the next step after which something is due.
            profile.before(step + 1)
            next_due = min(
                total_steps,
                profile.next_boundary(step),
                *(n * (step // n + 1) for n in intervals),
            )
            steps = min(next_due - step, training.most_steps)
            feed = first if step == start else training.feed(step)
            state = train_steps(state, feed, number(steps))
            step += steps
            profile.after(step, state)

            # ---- Log, when the devices have the next steps to do: here the host waits for them.
            write_line()
            if step % config.log_every_steps == 0 or step == total_steps:
                due_line = (step, state.totals)
                state = state.replace(totals=jax.tree.map(jnp.copy, zero_totals))

        # ---- All checkpoints are saved.
        summary = {
            "steps": step,
            "final": progress.final,
            "best": progress.best,
            "images_per_second": clock.images_per_second,
            "compile_seconds": progress.compile_seconds,
            "compile_seconds_saved": progress.compile_seconds_saved,
            "peak_memory_bytes": progress.peak_memory_bytes,
            "state_bytes": mesh_lib.bytes_per_device(state),
            "network": network,
            "devices": f"{mesh.size} x {jax.devices()[0].device_kind}",
            "versions": versions(),
            "fingerprint": fingerprint(state.params),
            "seeds": seed_summaries(config, state.params, progress),
            "commit": ", ".join(progress.commits) or None,
            "hardware": hardware(),
            "config_changes": progress.config_changes,
        }
        if is_first():
            write_json(workdir / "summary.json", summary)
        return summary


@contextlib.contextmanager
def _saving_before_an_error(save: Callable[[], Any]) -> Iterator[None]:
    """Saves what there is when the data can't be read, so that nothing is to be done again.

    Not with several processes, where the others don't know of the error.
    """
    try:
        yield
    except UserError:
        if jax.process_count() == 1:
            save()
        raise


def steps_per_dispatch(config: ml_collections.ConfigDict) -> int:
    """Steps of resident data in one program, at most."""
    return config.steps_per_dispatch or default_steps_per_dispatch()


def _print_compilation(progress: Progress) -> None:
    saved = progress.compile_seconds_saved
    kept = "" if saved is None else f", from the compilation cache, which saved {saved:.0f} s"
    print(f"step compiled in {progress.compile_seconds:.1f} s{kept}", flush=True)


def _print_progress(
    step: int,
    total_steps: int,
    metrics: Mapping[str, float],
    speed: float,
    config: ml_collections.ConfigDict,
) -> None:
    images = (total_steps - step) * config.batch_size * config.num_seeds
    skipped = metrics.get("train/skipped_steps")
    left = datetime.timedelta(seconds=round(images / speed))
    print(
        f"step {step:>{len(str(total_steps))}}/{total_steps}"
        f"  loss {metrics['train/loss']:.4f}  accuracy {metrics['train/accuracy']:.2%}"
        f"  lr {metrics['train/learning_rate']:.4g}  {speed:,.0f} images/s  ETA {left}"
        + (f"  skipped steps: {skipped:g}" if skipped else ""),
        flush=True,
    )
