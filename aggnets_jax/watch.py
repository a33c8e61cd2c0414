"""`--mode=eval --watch`: evaluates the checkpoints of a run while it trains, elsewhere."""

import time
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from aggnets_jax import sharding
from aggnets_jax.checkpoint import LATEST, Checkpoints
from aggnets_jax.distributed import in_any
from aggnets_jax.errors import Stopped, UserError
from aggnets_jax.evaluate import evaluate_checkpoint
from aggnets_jax.preemption import StopRequest
from aggnets_jax.workdir import check_fields, local_path, read_json

LOOK_EVERY = 5.0
"""Seconds between two looks at the workdir."""


def watch(
    workdir: str | Path, data_dir: str | None = None, *, look_every: float = LOOK_EVERY
) -> None:
    """Evaluates the newest checkpoint, and each that is newer, until the run is finished.

    Of checkpoints that come faster than they can be evaluated some are passed over. The run may
    have yet to begin.

    Args:
      workdir: of the run; `evaluation.json` is that of the newest checkpoint.
      data_dir: of the data set; default that of the run.
      look_every: seconds between two looks.

    Raises:
      UserError: as `evaluate_checkpoint`.
      Diverged: likewise.
      Stopped: after SIGTERM or SIGINT.
    """
    evaluated, told = -1, None
    mesh = sharding.make_mesh()
    with StopRequest() as stop:
        while True:
            if signal := stop.agreed(mesh):
                raise Stopped(f"{signal}: watched up to step {max(evaluated, 0)}")
            newest, last = _agreed_look(workdir)
            if newest > evaluated and _all_see(workdir, newest):
                metrics = error = None
                try:
                    metrics = evaluate_checkpoint(
                        workdir,
                        str(newest),
                        data_dir,
                        interrupted=lambda: stop.agreed(mesh) is not None,
                    )
                except UserError as raised:
                    error = raised
                if error := in_any(error):
                    # The run keeps a few: if it has deleted this one since, there is a newer one.
                    if _agreed_look(workdir)[0] == newest:
                        raise error
                elif metrics is None:
                    continue  # a signal came
                evaluated = newest
            elif evaluated == last:
                return
            else:
                if told != evaluated:
                    print(f"waiting for a checkpoint in {workdir}", flush=True)
                    told = evaluated
                time.sleep(look_every)


def _look(workdir: str | Path) -> tuple[int, int]:
    """Steps of the newest checkpoint, and of the finished run; -1 and -2 where there is none."""
    path = local_path(workdir)
    newest, last = -1, -2
    if path.is_dir():
        with Checkpoints(path) as checkpoints:
            newest = checkpoints.newest()
    summary = path / "summary.json"
    if summary.exists():
        found = read_json(summary)
        check_fields(summary, found, {"steps": int})
        last = found["steps"]
    return newest, last


def _agreed_look(workdir: str | Path) -> tuple[int, int]:
    """What the first process sees."""
    return tuple(multihost_utils.broadcast_one_to_all(np.int32(_look(workdir))).tolist())


def _all_see(workdir: str | Path, step: int) -> bool:
    """Whether a checkpoint is there for all processes, which restore it together."""
    here = (local_path(workdir) / LATEST / str(step)).is_dir()
    if jax.process_count() == 1:
        return here
    return bool(multihost_utils.process_allgather(np.int32(here)).all())
