"""`train_and_evaluate(config, workdir)`: the training loop, from top to bottom."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from clu.parameter_overview import get_parameter_overview

from aggnets_jax import config as config_lib
from aggnets_jax import data
from aggnets_jax.convert.initialize import initial_variables
from aggnets_jax.convert.teacher import with_teacher
from aggnets_jax.errors import Stopped, UserError
from aggnets_jax.evaluate import evaluate, make_eval_step
from aggnets_jax.files import PathLike, any_path, write_json, write_text
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.runtime.distributed import error_in_any, is_first, on_first_process
from aggnets_jax.runtime.interrupts import ends_at_signals
from aggnets_jax.runtime.notes import note
from aggnets_jax.runtime.preemption import StopRequest
from aggnets_jax.tasks import get_task
from aggnets_jax.training.metrics import evaluation_metrics, training_metrics
from aggnets_jax.training.optimizer import highest_learning_rate
from aggnets_jax.training.schedules import Rates, low_peak
from aggnets_jax.training.setup import set_up
from aggnets_jax.training.state import at_seed, seeds
from aggnets_jax.training.step import CompiledSteps, default_steps_per_dispatch, make_train_steps
from aggnets_jax.training.task import Task
from aggnets_jax.workdir.checkpoint_writer import RunCheckpoints
from aggnets_jax.workdir.divergence import REPORT, check_evaluation, check_totals, reporting
from aggnets_jax.workdir.folder import CONFIG, SUMMARY, open_workdir
from aggnets_jax.workdir.metric_log import MetricLog
from aggnets_jax.workdir.profiler import Profile
from aggnets_jax.workdir.progress import (
    Clock,
    Progress,
    print_evaluation,
    print_setup,
    print_training,
)
from aggnets_jax.workdir.provenance import commit, peak_memory, summarise
from aggnets_jax.workdir.trackers import check_trackers


@data.listing_once()
def train_and_evaluate(
    config: ml_collections.ConfigDict | Mapping[str, Any],
    workdir: PathLike,
    *,
    allow_config_change: bool = False,
    task: Task | None = None,
) -> dict[str, Any]:
    """Train a network, or resume its training, and evaluate it.

    The result depends only on the config: a run that was stopped at any moment and resumed ends
    with the same bits, in parameters and metrics, as one that was not.

    Args:
      config: differences from `configs/default.py`, or a whole config.
      workdir: directory for checkpoints, metrics and the summary, local or in a bucket: a new one,
        or the one of a run with the same config, which is then resumed. Several processes share it.
      allow_config_change: whether to resume a run with another config or data set; the summary then
        lists the changes and their steps.
      task: task to train for; None: the task that the config names.

    Returns:
      The content of `workdir/summary.json`; see `provenance.summarise`.

    Raises:
      UserError: for a wrong config, without changes to the workdir; for data that can't be read,
        after a single process has saved the state.
      Diverged: if the loss or a gradient is NaN or infinite, at more steps than
        `config.skip_nonfinite_steps` allows.
      Stopped: after SIGTERM or SIGINT, when the state is saved.
      Unsaved: if the final state of the run can't be saved.
      OSError: if another file of the workdir can't be written.
    """
    with contextlib.ExitStack() as stack:
        # Before there is a state to save, a signal ends the process, unless others wait for it.
        alone = jax.process_count() == 1 and ends_at_signals()
        stop = stack.enter_context(StopRequest(listen=not alone))

        # ---- Set up. Mistakes in the config, the data and the devices show here.
        note("opening the data set, and counting the network")
        config = config_lib.resolve(config)
        task = task or get_task(config)
        mesh = mesh_lib.make_mesh(config.slices)
        over_batch = mesh_lib.batch_sharding(mesh)
        mesh_lib.check_divisible("config.eval_batch_size", config.eval_batch_size, mesh.size)
        setup = set_up(config, task, mesh=mesh)
        check_trackers(config)
        config_json = config_lib.to_json(config)
        preprocess = task.make_preprocess(config, setup.info)
        network = setup.network_summary
        total_steps = setup.total_steps

        opened = open_workdir(workdir, config_json, allow_config_change=allow_config_change)
        on_first_process(lambda: stack.enter_context(opened))
        workdir = any_path(workdir)
        checkpoints = RunCheckpoints(
            workdir, keep=config.keep_checkpoints, config=config_json, dataset=setup.info
        )
        stack.enter_context(checkpoints)
        profile = stack.enter_context(Profile(config.profile_steps, workdir / "profile"))

        # ---- Restore the newest checkpoint, or start: from the initialisation or given weights.
        state, progress = setup.new_state(mesh), Progress()
        zero_totals = jax.tree.map(jnp.copy, state.totals)
        restored = checkpoints.restore(
            state,
            allow_config_change=allow_config_change,
            other_form=lambda: setup.state_shapes(scan=not config.model.scan),
        )
        if restored:
            state, progress = restored
        elif config.init_from is not None:
            variables = {"params": state.params, "batch_stats": state.batch_stats}
            replace = partial(initial_variables, config, setup.info, workdir=workdir)
            state = setup.state_from(task.replace_network(variables, replace), mesh)
        start = step = logged = state.updates
        if start > total_steps:
            raise UserError(f"the run has {start} steps, more than the config's {total_steps}")
        if start < total_steps and (revision := commit()) not in (None, *progress.commits):
            progress.commits.append(revision)
        print_setup(setup, network, mesh, state)

        # ---- Open the data, and compile the step.
        intervals = [config[f"{what}_every_steps"] for what in ("log", "eval", "checkpoint")]
        eval_batches = task.eval_data(config, over_batch)
        eval_batches.check()
        eval_step = make_eval_step(task, setup.model, preprocess, config.num_seeds, mesh)
        if start < total_steps:
            dispatched = config.steps_per_dispatch or default_steps_per_dispatch()
            training = task.train_data(
                config,
                seeds=seeds(config),
                start_step=start,
                most_steps=min(dispatched, total_steps),
                sharding=over_batch,
            )
            if config.teacher is not None:
                training = with_teacher(training, setup, preprocess, mesh, progress)
            rates = Rates(setup.schedule, total_steps)
            if is_first() and (doubt := low_peak(rates, highest_learning_rate(config))):
                print(f"warning: {doubt}", file=sys.stderr, flush=True)
            first, step_fn = training.feed(start), setup.train_step(preprocess, mesh)
            note("compiling the step")
            several = make_train_steps(step_fn, training, config.num_seeds)
            train_steps = CompiledSteps(several, state, first, mesh)
            progress.note_compilation(train_steps.seconds, train_steps.seconds_saved)

        # ---- From here on, the files of this run are written to the workdir.
        params = at_seed(state.params, 0, config.num_seeds)
        log = MetricLog(workdir, progress.lines, config, writes=is_first())
        if is_first():
            if start < total_steps:  # files of an earlier end of the run, before the config changes
                (workdir / SUMMARY).unlink(missing_ok=True)
                (workdir / REPORT).unlink(missing_ok=True)
            write_json(workdir / CONFIG, config_json)
            table = get_parameter_overview(params, include_stats=False)
            write_text(workdir / "parameters.txt", table + "\n")
        stack.enter_context(log)
        clock = Clock(progress.images, progress.seconds)
        # The step of the log's next line, its sums, and further scalars of the parameters.
        due_line: tuple[int, dict[str, jax.Array], dict[str, jax.Array]] | None = None

        def write_line() -> None:
            """Write the line of the log that is due, if any, when the devices have its sums."""
            nonlocal due_line, logged
            if due_line is None:
                return
            (at, totals, observed), due_line = due_line, None
            check_totals(task, totals, config, workdir, mesh)
            metrics = training_metrics(task, totals, config)
            metrics["train/learning_rate"] = rates.before(at)
            metrics |= {f"train/{name}": float(value) for name, value in observed.items()}
            speed = clock.lap((at - logged) * config.batch_size * config.num_seeds)
            logged = at
            log.write(at, metrics)
            log.write(at, {"train/images_per_second": speed}, "timing")
            print_training(task, at, total_steps, metrics, speed, config)

        def catch_up() -> None:
            """Wait for the devices, log all steps so far, and check that they are finite."""
            write_line()
            check_totals(task, state.totals, config, workdir, mesh)

        def save() -> None:
            """Begin to save the state, after flushing the log to the disk."""
            catch_up()
            with clock.paused():
                progress.images, progress.seconds = clock.images, clock.seconds
                progress.peak_memory_bytes = peak_memory(train_steps.program)
                if error := error_in_any(log.flush()):
                    checkpoints.note_failure(error, step)
                else:
                    progress.lines = log.lines
                    checkpoints.save(state, progress)

        stack.enter_context(reporting(workdir))
        stack.enter_context(_saving_before_an_error(lambda: step > start and save()))  # type: ignore[func-returns-value]
        stop.listen()
        while True:
            last = step == total_steps
            stopping = stop.agreed(mesh)

            # ---- Evaluate. A run that is stopping makes up for it when it resumes.
            due = last or step == progress.owed or step % config.eval_every_steps == 0
            owed = due and progress.evaluated < step
            if owed and stopping:
                progress.owed = step
            elif owed:
                catch_up()
                with clock.paused():
                    metrics = evaluate(
                        task,
                        eval_step,
                        jax.device_put(state.variables, mesh_lib.replicated(mesh)),
                        eval_batches,
                        partial(stop.agreed, mesh),
                    )
                if metrics is None:
                    continue
                metrics = {"step": step, **metrics}
                print_evaluation(task, metrics)
                check_evaluation(task, metrics)
                log.write(step, evaluation_metrics(task, metrics, config))
                if progress.add_evaluation(metrics, task.best):
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
                    f"{stopping}: stopped after step {step}; the same command resumes from there"
                )
            if last:
                break

            # ---- Train, up to the next step after which something is due.
            profile.before(step + 1)
            next_due = min(
                total_steps, profile.next_boundary(step), *(n * (step // n + 1) for n in intervals)
            )
            steps = min(next_due - step, training.most_steps)
            feed = first if step == start else training.feed(step)
            state = train_steps(state, feed, steps)
            step += steps
            profile.after(step, state)

            # ---- Log, when the devices have the next steps to do: here the host waits for them.
            write_line()
            if step % config.log_every_steps == 0 or step == total_steps:
                due_line = (step, state.totals, task.observe(state.params))
                state = state.replace(totals=jax.tree.map(jnp.copy, zero_totals))

        # ---- All checkpoints are saved.
        if error := error_in_any(log.flush()):
            raise error
        summary = summarise(setup, network, mesh, state, progress, clock)
        if is_first():
            write_json(workdir / SUMMARY, summary)
        return summary


@contextlib.contextmanager
def _saving_before_an_error(save: Callable[[], Any]) -> Iterator[None]:
    """Save the state if the data can't be read, so that nothing has to be computed again.

    With several processes nothing is saved, because the others don't know of the error.
    """
    try:
        yield
    except (UserError, OSError):
        if jax.process_count() == 1:
            save()
        raise
