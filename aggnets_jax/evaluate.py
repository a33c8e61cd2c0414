"""The one evaluation path: of a state in training, and of a checkpoint alone."""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from aggnets_jax import data
from aggnets_jax.errors import Diverged, Stopped, UserError, one_line
from aggnets_jax.files import check_fields, local_path, read_json, write_json
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.runtime.compilation import compiler_options
from aggnets_jax.runtime.distributed import error_in_any, is_first
from aggnets_jax.runtime.preemption import StopRequest
from aggnets_jax.training.losses import cross_entropy
from aggnets_jax.training.state import Variables, over_seeds
from aggnets_jax.workdir.checkpoints import LATEST, Checkpoints
from aggnets_jax.workdir.restore import Restored, restore_network

EvalStep = Callable[[Variables, data.Batch], dict[str, jax.Array]]


def make_eval_step(model: nn.Module, preprocess: data.Preprocess, num_seeds: int = 1) -> EvalStep:
    """Makes the compiled function that sums loss and hits over the examples of a batch.

    With several seeds the variables have an axis of seeds in front, and the sums, too.
    """

    def eval_step(variables: Variables, batch: data.Batch) -> dict[str, jax.Array]:
        logits, _ = model.apply(variables, preprocess(batch, train=False), train=False)
        scores = score(logits, batch)
        return {
            **{name: jnp.sum(values) for name, values in scores.items()},
            "examples": jnp.sum(batch["mask"]),
            "skipped": jnp.sum(batch["label"] < 0),
        }

    eval_step = over_seeds(eval_step, num_seeds, in_axes=(0, None))
    return jax.jit(eval_step, compiler_options=compiler_options())


def score(logits: jax.Array, batch: data.Batch) -> dict[str, jax.Array]:
    """What counts of each example of a batch [B], zero where there is none.

    Args:
      logits: float [B, classes].
      batch: "label" int32 [B] and "mask" bool [B], as of `data.EvalBatches`.

    Returns:
      `loss` (cross entropy, float), `correct` and `correct_top5` (bool).
    """
    labels, mask = batch["label"], batch["mask"]
    losses = cross_entropy(logits, labels)
    _, top5 = jax.lax.top_k(logits, min(5, logits.shape[-1]))
    return {
        "loss": jnp.where(mask, losses, 0),
        "correct": mask & (jnp.argmax(logits, axis=-1) == labels),
        "correct_top5": mask & jnp.any(top5 == labels[:, None], axis=-1),
    }


def evaluate(
    eval_step: EvalStep,
    variables: Variables,
    batches: data.EvalBatches,
    interrupted: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """Evaluates every example exactly once.

    Args:
      eval_step: from `make_eval_step`.
      variables: "params" and "batch_stats" of the network.
      batches: from `data.eval_batches`.
      interrupted: asked before each batch whether to give up.

    Returns:
      `accuracy`, `accuracy_top5` (in 0..1), `loss` (mean cross entropy) and `examples`, how many
      these are; `skipped`, how many were not evaluated, if damaged images are skipped; with several
      seeds, means over them, and the same of each in the list `seeds`. None if it was interrupted.

    Raises:
      UserError: an image is not what it should be, or all are skipped.
    """
    total: dict[str, np.ndarray] = {}
    ahead: dict[str, jax.Array] = {}
    for batch in batches:
        if interrupted():
            return None
        # The sums of a batch are fetched when the next one is dispatched.
        behind, ahead = ahead, eval_step(variables, batch)
        _add(total, behind)
    _add(total, ahead)
    examples, skipped = (int(np.ravel(total[name])[0]) for name in ("examples", "skipped"))
    if examples + skipped != batches.num_examples:
        raise RuntimeError(
            f"evaluated {examples} and skipped {skipped} of {batches.num_examples} examples"
        )
    if not examples:
        raise UserError(f"all {skipped} images of the evaluation are damaged")
    means = {
        "accuracy": total["correct"] / examples,
        "accuracy_top5": total["correct_top5"] / examples,
        "loss": total["loss"] / examples,
    }
    metrics: dict[str, Any] = {name: float(np.mean(value)) for name, value in means.items()}
    metrics["examples"] = examples
    if batches.skip:
        metrics["skipped"] = skipped
    if total["loss"].ndim:
        columns = zip(*(map(float, value) for value in means.values()), strict=True)
        metrics["seeds"] = [dict(zip(means, column, strict=True)) for column in columns]
    return metrics


def _add(total: dict[str, np.ndarray], sums: Mapping[str, jax.Array]) -> None:
    for name, value in sums.items():
        total[name] = total.get(name, 0) + np.asarray(value, np.float64)


def evaluate_checkpoint(
    workdir: str | Path,
    which: str = "latest",
    data_dir: str | None = None,
    *,
    interrupted: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """Evaluates a checkpoint, and prints the result.

    Args:
      workdir: of the run; gets `evaluation.json` if it can be written.
      which: as for `restore_network`.
      data_dir: of the data set; default that of the run.
      interrupted: as for `evaluate`.

    Returns:
      As `evaluate`, and the `step`. None if it was interrupted.

    Raises:
      UserError: if there is no such checkpoint, or the data set is missing or has other classes.
      Diverged: if the loss is NaN or infinite; it is printed, and `evaluation.json` left as it was.
    """
    mesh = mesh_lib.make_mesh()
    restored = restore_network(workdir, which, mesh_lib.replicated(mesh), keep_loops=True)
    step, config, info, model, variables = restored
    batches = evaluation_batches(restored, mesh, data_dir)
    eval_step = make_eval_step(model, data.make_preprocess(config.data, info), config.num_seeds)
    metrics = evaluate(eval_step, variables, batches, interrupted)
    if metrics is None:
        return None
    metrics = {"step": step, **metrics}
    print_evaluation(metrics)
    if not math.isfinite(metrics["loss"]):
        raise Diverged(f"the loss of the evaluation is not finite at step {step}")
    try:
        if is_first():
            write_json(local_path(workdir) / "evaluation.json", metrics)
    except OSError as error:
        print(f"not written to {workdir}: {error.strerror}", flush=True)
    return metrics


def evaluation_batches(
    restored: Restored, mesh: Mesh, data_dir: str | None = None
) -> data.EvalBatches:
    """The evaluation split of a restored network's data set.

    Args:
      restored: from `restore_network`.
      mesh: over whose devices batches are divided.
      data_dir: of the data set; default that of the run, which it replaces in `restored.config`.

    Raises:
      UserError: if the data set is missing or has other classes, or batches can't be divided.
    """
    config = restored.config
    if data_dir is not None:
        config.data.data_dir = data_dir
    _check_same_classes(restored.info, data.describe(config.data))
    mesh_lib.check_divisible("eval_batch_size", config.eval_batch_size, mesh.size)
    return data.eval_batches(
        config.data, batch_size=config.eval_batch_size, sharding=mesh_lib.batch_sharding(mesh)
    )


def _check_same_classes(trained: data.DatasetInfo, evaluated: data.DatasetInfo) -> None:
    if trained.class_names != evaluated.class_names:
        before, now = {*trained.class_names}, {*evaluated.class_names}
        new, missing = ", ".join(sorted(now - before)), ", ".join(sorted(before - now))
        raise UserError(
            one_line(
                f"data set {evaluated.name} has other classes than the checkpoint's:"
                f" new are {new or 'none'}; missing are {missing or 'none'}"
            )
        )


def print_evaluation(metrics: dict[str, Any]) -> None:
    """Prints the result of an evaluation and its step in a line."""
    mean = f", means of {len(metrics['seeds'])} seeds" if "seeds" in metrics else ""
    skipped = f", {metrics['skipped']} skipped" if metrics.get("skipped") else ""
    print(
        f"step {metrics['step']}  evaluation: loss {metrics['loss']:.4f}"
        f"  accuracy {metrics['accuracy']:.2%} of {metrics['examples']} images{skipped}{mean}",
        flush=True,
    )


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
    mesh = mesh_lib.make_mesh()
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
                if error := error_in_any(error):
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
