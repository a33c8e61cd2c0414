"""The one evaluation path: of a state in training, and of a checkpoint alone."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, Sharding

from aggnets_jax import config as config_lib
from aggnets_jax import data, sharding
from aggnets_jax.checkpoint import Checkpoints
from aggnets_jax.compilation import compiler_options
from aggnets_jax.distributed import is_first
from aggnets_jax.errors import Diverged, UserError, one_line, unknown
from aggnets_jax.execution import without_loops
from aggnets_jax.layout import rearranged
from aggnets_jax.losses import cross_entropy
from aggnets_jax.models import create_configured_model
from aggnets_jax.step import Variables, of_seed, over_seeds, seeds
from aggnets_jax.workdir import local_path, write_json

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


class Restored(NamedTuple):
    """A network as a checkpoint has it.

    Attributes:
      step: after which it was saved.
      config: of its run.
      info: of the data set of its run.
      model: the network.
      variables: "params" and "batch_stats"; their averages, if the run has any. With several seeds
        these are the first axis of each array.
    """

    step: int
    config: ml_collections.ConfigDict
    info: data.DatasetInfo
    model: nn.Module
    variables: Variables

    def of_one(self, seed: int | None) -> Variables:
        """The variables of the network of a seed, which may be None if there is only one.

        Raises:
          UserError: if the run has no such seed, or several and none is chosen.
        """
        there = np.ravel(seeds(self.config)).tolist()
        if seed is None and len(there) > 1:
            seeds_there = ", ".join(map(str, there))
            raise UserError(f"the run has several networks; choose one by --seed: {seeds_there}")
        if seed is not None and seed not in there:
            raise unknown("seed", str(seed), map(str, there))
        number = 0 if seed is None else there.index(seed)
        return of_seed(self.variables, number, len(there))


def restore_network(
    workdir: str | Path, which: str, devices: Sharding, *, keep_loops: bool = False
) -> Restored:
    """Restores a network with nothing but the directory of its run; no data set is opened.

    Args:
      workdir: of the run.
      which: "latest", "best" or the number of a step.
      devices: the sharding of the variables.
      keep_loops: whether a network that was trained with loops over its layers (`model.scan`) stays
        one, which compiles fast, rather than to have its layers apart.

    Raises:
      UserError: if there is no such checkpoint.
    """
    with Checkpoints(local_path(workdir)) as checkpoints:
        folder, step = checkpoints.find(which)
        config = config_lib.resolve(checkpoints.restore_config(folder, step))
        info = checkpoints.restore_dataset(folder, step)
        model = create_configured_model(config, info.num_classes)

        def shapes(model: nn.Module) -> Variables:
            images = jnp.zeros((1, *info.image_shape))
            return jax.eval_shape(lambda: model.init(jax.random.key(0), images))

        of_seeds = over_seeds(lambda tree, seed: tree, config.num_seeds, (None, 0))
        variables = checkpoints.restore_variables(
            folder,
            step,
            jax.eval_shape(of_seeds, shapes(model), seeds(config)),
            devices,
            averaged=config.ema_decay > 0,
        )
        if config.model.scan and not keep_loops:
            config.model.scan = False
            model = without_loops(model)
            apart = over_seeds(partial(rearranged, like=shapes(model)), config.num_seeds)
            variables = apart(variables)
    return Restored(step, config, info, model, variables)


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
    mesh = sharding.make_mesh()
    restored = restore_network(workdir, which, sharding.replicated(mesh), keep_loops=True)
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
    sharding.check_divisible("eval_batch_size", config.eval_batch_size, mesh.size)
    return data.eval_batches(
        config.data, batch_size=config.eval_batch_size, sharding=sharding.by_example(mesh)
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
