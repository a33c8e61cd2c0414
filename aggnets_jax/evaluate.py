"""Evaluation, of a state during training and of a checkpoint."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from aggnets_jax import data
from aggnets_jax.config import override_evaluation
from aggnets_jax.errors import Diverged, Stopped, UserError, one_line
from aggnets_jax.files import PathLike, any_path, check_fields, has_folder, read_json, write_json
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.runtime.compilation import compiler_options
from aggnets_jax.runtime.distributed import error_in_any, in_any_process, is_first, of_first_process
from aggnets_jax.runtime.notes import counted, note
from aggnets_jax.runtime.preemption import StopRequest
from aggnets_jax.tasks import get_task
from aggnets_jax.training.gradients import inside_mesh
from aggnets_jax.training.state import Variables, over_seeds
from aggnets_jax.training.task import Task
from aggnets_jax.workdir.checkpoints import Checkpoints
from aggnets_jax.workdir.divergence import REPORT, check_evaluation
from aggnets_jax.workdir.folder import EVALUATION, LATEST, SUMMARY
from aggnets_jax.workdir.progress import print_evaluation
from aggnets_jax.workdir.restore import Restored, restore_network

EvalStep = Callable[[Variables, data.Batch], Any]


def make_eval_step(
    task: Task,
    model: Any,
    preprocess: data.Preprocess,
    num_seeds: int = 1,
    mesh: Mesh | None = None,
) -> EvalStep:
    """Make the compiled evaluation of a batch.

    With several seeds the variables have them as first axis, and the outputs, too. On a mesh each
    device finds the objects of its own images.
    """
    step = task.make_eval_step(model, preprocess)
    if mesh is not None and mesh.size > 1:
        step = inside_mesh(step, mesh)
    step = over_seeds(step, num_seeds, in_axes=(0, None))
    return jax.jit(step, compiler_options=compiler_options())


def evaluate(
    task: Task,
    eval_step: EvalStep,
    variables: Variables,
    batches: data.EvalBatches,
    interrupted: Callable[[], object] = lambda: False,
    keep: Callable[[list[Any]], object] = lambda results: None,
) -> dict[str, Any] | None:
    """Evaluate every example exactly once.

    The variables are "params" and "batch_stats" of the network. `interrupted` is asked before each
    batch whether to give up. `keep` gets the outputs for each example, if the task has any.

    Returns:
      The task's metrics by name (for classification `accuracy` and `accuracy_top5` in 0..1, and
      `loss`, the mean cross entropy); `examples`, the number of examples; `skipped`, the number of
      damaged ones, if these are skipped; with several seeds, means over them, and the metrics of
      each in the list `seeds`. None if it was interrupted.

    Raises:
      UserError: if an image is damaged or of another shape, or all are skipped.
    """
    gathered, ahead = task.start_gathering(batches), None
    for batch in counted(batches, len(batches), "batches of the evaluation"):
        if interrupted():
            return None
        # The outputs of a batch are fetched when the next one is dispatched.
        behind, ahead = ahead, eval_step(variables, batch)
        if behind is not None:
            gathered = task.gather(gathered, behind)
    found, examples, skipped, results = task.finish(task.gather(gathered, ahead))
    if examples + skipped != batches.num_examples:
        raise RuntimeError(
            f"evaluated {examples} and skipped {skipped} of {batches.num_examples} examples"
        )
    if results is not None:
        keep(results)
    metrics: dict[str, Any] = {name: float(np.mean(value)) for name, value in found.items()}
    metrics["examples"] = examples
    if batches.skip:
        metrics["skipped"] = skipped
    if np.ndim(found[task.best]):
        columns = zip(*(map(float, value) for value in found.values()), strict=True)
        metrics["seeds"] = [dict(zip(found, column, strict=True)) for column in columns]
    return metrics


@data.listing_once()
def evaluate_checkpoint(
    workdir: PathLike,
    which: str = "latest",
    data_dir: str | None = None,
    *,
    data_name: str | None = None,
    split: str | None = None,
    overrides: Sequence[str] = (),
    interrupted: Callable[[], object] = lambda: False,
) -> dict[str, Any] | None:
    """Evaluate a checkpoint, print the result, and write `evaluation.json` if it can be written.

    A task with outputs for each example writes these to `results.json`: for detection the objects
    in COCO's format of results.

    `which` is as for `restore_network`, `data_dir` as for `evaluation_batches`, `data_name` and
    `split` are those of another data set as for `other_evaluation`, `overrides` are as for
    `config.override_evaluation`, and the result is as for `evaluate`, with the `step`. The result
    on another data set than the run's is not written.

    Raises:
      UserError: if there is no such checkpoint, or the data set is missing or has other classes.
      Diverged: if a metric is NaN or infinite; the result is printed, and `evaluation.json` left as
        it was.
    """
    note(f"restoring the network of {workdir}")
    mesh = mesh_lib.make_mesh()
    restored = restore_network(workdir, which, mesh_lib.replicated(mesh), keep_loops=True)
    config, task = restored.config, get_task(restored.config)
    override_evaluation(config, overrides)
    if data_name is None:
        model, batches = restored.model, evaluation_batches(restored, mesh, data_dir)
    else:
        model, batches = other_evaluation(restored, mesh, data_name, data_dir, split)
    preprocess = task.make_preprocess(config, restored.info)
    eval_step = make_eval_step(task, model, preprocess, config.num_seeds, mesh)
    note(f"evaluating {batches.num_examples} images")
    results: list[Any] = []
    metrics = evaluate(
        task, eval_step, restored.variables, batches, interrupted, keep=results.append
    )
    if metrics is None:
        return None
    metrics = {"step": restored.step, **metrics}
    print_evaluation(task, metrics)
    check_evaluation(task, metrics)
    if data_name is not None:
        return metrics
    try:
        if is_first():
            write_json(any_path(workdir) / EVALUATION, metrics)
            for each in results:
                write_json(any_path(workdir) / "results.json", each)
    except OSError as error:
        print(f"not written to {workdir}: {error.strerror or one_line(error)}", flush=True)
    return metrics


def evaluation_batches(
    restored: Restored, mesh: Mesh, data_dir: str | None = None
) -> data.EvalBatches:
    """Open the evaluation split of a restored network's data set.

    The data set is in `data_dir`, which replaces the one in `restored.config`; None: the run's.

    Raises:
      UserError: if the data set is missing or has other classes, or batches can't be divided.
    """
    if not restored.info.num_train:  # the weights come from a file, without data
        name = restored.config.data.name
        model, batches = other_evaluation(restored, mesh, name, data_dir)
        if model is not restored.model:
            raise UserError(f"data set {name} has a part of the classes: name it by --data")
        return batches
    config, task = restored.config, get_task(restored.config)
    if data_dir is not None:
        config.data.data_dir = data_dir
    info = task.describe(config)
    if restored.info.class_names != info.class_names:
        raise data.other_classes(restored.info, info)
    if config.task != "detection" and restored.info.image_shape != info.image_shape:
        theirs, own = ("x".join(map(str, i.image_shape)) for i in (info, restored.info))
        raise UserError(
            f"images of {info.name} are {theirs}, and the checkpoint's are {own};"
            f" --data={info.name} resizes them"
        )
    mesh_lib.check_divisible("config.eval_batch_size", config.eval_batch_size, mesh.size)
    return task.eval_data(config, mesh_lib.batch_sharding(mesh))


def other_evaluation(
    restored: Restored,
    mesh: Mesh,
    name: str,
    data_dir: str | None = None,
    split: str | None = None,
    *,
    whole: bool = False,
) -> tuple[Any, data.EvalBatches]:
    """Open another data set than the one on which a network has learnt.

    The set needs no training split, and its images are resized to the network's. It may have a part
    of the network's classes, see `data.map_classes`.

    Args:
      restored: network.
      mesh: of the devices.
      name: of the data set.
      data_dir: of the data set; None: the run's.
      split: of the data set; None: "test", "validation" or "val".
      whole: whether images are resized as a whole, without cutting out their centre.

    Returns:
      The network, whose logits are the ones of the set's classes, and the batches.

    Raises:
      UserError: as `evaluation_batches`, if the images have other channels, or for a run of another
        task than classification.
    """
    config, learnt = restored.config.copy_and_resolve_references(), restored.info
    if config.task != "classification":
        raise UserError(f"--data is for classification, and this is a run of {config.task}")
    if data_dir is not None:
        config.data.data_dir = data_dir
    config.data.update({"name": name, "resident": "never", "eval_split": split})
    sides = learnt.image_shape[:2]
    config.data.image_size = sides[0] if sides[0] == sides[1] else None
    config.data.train_split = data.evaluation_split(config.data)
    info = data.describe(config.data)
    if info.image_shape[:2] != sides:
        raise UserError(
            f"images of {info.name} are {'x'.join(map(str, info.image_shape[:2]))}, and the"
            f" network's are {'x'.join(map(str, sides))}; they are resized to squares alone"
        )
    channels, own = info.image_shape[-1], learnt.image_shape[-1]
    if channels != own:
        raise UserError(
            f"images of {info.name} have {channels} channels, and the network takes {own}"
        )
    mesh_lib.check_divisible("config.eval_batch_size", config.eval_batch_size, mesh.size)
    class_map = data.map_classes(learnt, info)
    batches = data.eval_batches(
        config.data,
        batch_size=config.eval_batch_size,
        sharding=mesh_lib.batch_sharding(mesh),
        class_map=class_map,
        whole=whole,
    )
    if class_map is None or len(class_map.classes) == learnt.num_classes:
        return restored.model, batches
    return data.Among(restored.model, class_map), batches


def watch(
    workdir: PathLike,
    data_dir: str | None = None,
    *,
    overrides: Sequence[str] = (),
    look_every: float = 5.0,
) -> None:
    """Evaluate the newest checkpoint, and each newer one, until the run is finished.

    Checkpoints that come faster than they can be evaluated are skipped. The run may have yet to
    begin. There are `look_every` seconds between two looks at the workdir.

    Raises:
      Stopped: after SIGTERM or SIGINT.
      Diverged: if the run has diverged; its newest checkpoint is evaluated before. Other errors are
        as for `evaluate_checkpoint`.
    """
    evaluated, announced, ended = -1, None, False
    mesh = mesh_lib.make_mesh()
    with StopRequest() as stop:
        asked = partial(stop.agreed, mesh)
        while True:
            if signal := asked():
                raise Stopped(f"{signal}: watched up to step {max(evaluated, 0)}")
            newest, last, diverged = of_first_process(partial(_look, workdir))
            if newest > evaluated and _all_see(workdir, newest):
                metrics = error = None
                try:
                    metrics = evaluate_checkpoint(
                        workdir, str(newest), data_dir, overrides=overrides, interrupted=asked
                    )
                except UserError as raised:
                    error = raised
                if error := error_in_any(error):
                    # The run keeps a few: if it has deleted this one since, there is a newer one.
                    if of_first_process(partial(_look, workdir))[0] == newest:
                        raise error
                elif metrics is None:
                    continue  # a signal came
                evaluated = newest
            elif evaluated == last:
                return
            elif diverged and ended:
                raise Diverged(f"the run has diverged: see {any_path(workdir) / REPORT}")
            else:
                # A checkpoint may come after the report: the next look shows it.
                ended = diverged
                if announced != evaluated:
                    print(f"waiting for a checkpoint in {workdir}", flush=True)
                    announced = evaluated
                time.sleep(look_every)


def _look(workdir: PathLike) -> tuple[int, int, bool]:
    """Return the steps of the newest checkpoint (or -1) and of the finished run (or -2).

    The third value says whether the run has diverged.
    """
    path = any_path(workdir)
    newest, last = -1, -2
    if has_folder(path):
        with Checkpoints(path) as checkpoints:
            newest = checkpoints.newest()
    if (path / SUMMARY).exists():
        found = read_json(path / SUMMARY)
        check_fields(path / SUMMARY, found, {"steps": int})
        last = found["steps"]
    return newest, last, (path / REPORT).exists()


def _all_see(workdir: PathLike, step: int) -> bool:
    """Return whether all processes see a checkpoint, which they restore together."""
    return not in_any_process(not has_folder(any_path(workdir) / LATEST / str(step)))
