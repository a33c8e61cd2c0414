"""Checks for divergence: a loss, a gradient or a parameter is NaN or infinite."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from aggnets_jax.errors import Diverged, UserError
from aggnets_jax.files import AnyPath, write_json
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.runtime.distributed import is_first
from aggnets_jax.training.state import Totals, seeds
from aggnets_jax.training.task import Task

REPORT = "divergence.json"


def check_totals(
    task: Task, totals: Totals, config: ml_collections.ConfigDict, workdir: AnyPath, mesh: Mesh
) -> None:
    """Check that few enough steps were not finite since metrics were last logged.

    Raises:
      Diverged: if they were more than `config.skip_nonfinite_steps`; `divergence.json` in the
        workdir then has what is needed to reproduce the first of these steps.
    """
    totals = jax.device_get(totals)
    columns = (seeds(config), totals["first_nonfinite"], totals["nonfinite_steps"])
    for seed, first, bad in zip(*(np.ravel(column).tolist() for column in columns), strict=True):
        if bad > config.skip_nonfinite_steps:
            more = f", and at {bad - 1} of the steps after it" if bad > 1 else ""
            whose = f" of seed {seed}" if config.num_seeds > 1 else ""
            found = f"loss or gradient{whose} is not finite at step {first}{more}"
            try:
                _write_report(task, first, seed, config, workdir, mesh)
            except (OSError, UserError) as error:
                raise Diverged(f"{found}; its batch could not be written: {error}") from error
            raise Diverged(f"{found}; its batch is in {workdir / REPORT}")


@contextlib.contextmanager
def reporting(workdir: AnyPath) -> Iterator[None]:
    """Write `divergence.json` for a `Diverged` that has left none: it tells others of the end."""
    try:
        yield
    except Diverged as error:
        with contextlib.suppress(OSError):  # the storage may be gone, and the run must say why
            if is_first() and not (workdir / REPORT).exists():
                write_json(workdir / REPORT, {"error": str(error)})
        raise


def check_evaluation(task: Task, metrics: Mapping[str, Any]) -> None:
    """Raise `Diverged` if a metric of an evaluation, with its "step", is not finite."""
    for name in task.logged:
        if not math.isfinite(metrics[name]):
            raise Diverged(f"the {name} of the evaluation is not finite at step {metrics['step']}")


def _write_report(
    task: Task,
    step: int,
    seed: int,
    config: ml_collections.ConfigDict,
    workdir: AnyPath,
    mesh: Mesh,
) -> None:
    sharding = mesh_lib.batch_sharding(mesh)
    training = task.train_data(config, seeds=seed, start_step=step - 1, sharding=sharding)
    batch = jax.jit(training.batch)(training.feed(step - 1), 0)
    examples = {
        name: np.asarray(multihost_utils.process_allgather(batch[name], tiled=True)).tolist()
        for name in ("epoch", "index")
    }
    if is_first():
        report = {"step": step, "seed": seed, "split": config.data.train_split, **examples}
        write_json(workdir / REPORT, report)
