"""The teacher of a run: the network of another workdir, as a part of the training data."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from aggnets_jax import data
from aggnets_jax.convert.files import is_file_of_weights
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.models import create_configured_model
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.runtime.compilation import compiler_options
from aggnets_jax.runtime.distributed import to_host
from aggnets_jax.runtime.notes import note
from aggnets_jax.training.distillation import (
    CachedTeacher,
    Distillation,
    TaughtData,
    Teacher,
    make_distillation,
)
from aggnets_jax.training.setup import Setup
from aggnets_jax.training.state import Variables
from aggnets_jax.workdir.progress import Progress
from aggnets_jax.workdir.restore import Restored, restore_network


def with_teacher(
    training: data.ResidentData | data.StreamedData,
    setup: Setup,
    preprocess: data.Preprocess,
    mesh: Mesh,
    progress: Progress,
) -> TaughtData:
    """Put the teacher of a run beside its training data, and note its step in the progress.

    A run that goes on has the teacher that it had, also if the teacher has learnt more since.

    The weights are on every device, or divided over the devices as `config.sharding` says for the
    student's.

    Raises:
      UserError: if there is no such teacher, it is for other images or classes, or lacks what the
        config asks for.
    """
    config = setup.config
    asked = make_distillation(config)
    if is_file_of_weights(config.teacher):
        raise UserError(
            f"config.teacher {config.teacher} is a file: make a workdir of it with aggnets convert"
        )
    note(f"restoring the teacher of {config.teacher}")
    restored = _restore(config, mesh, progress)
    _check_fits(restored, setup, config)
    own = ml_collections.ConfigDict(restored.config)
    own.dtype = asked.dtype
    network = create_configured_model(own, restored.info.num_classes)
    variables = _placed(restored, asked, mesh, config.sharding)
    there, here = restored.info, setup.info
    teacher = Teacher(
        variables,
        partial(network.apply, train=False),
        tuple(dict.fromkeys(name for _, name in asked.hints)),
        factor=tuple(s / t for s, t in zip(here.std, there.std, strict=True)),
        shift=tuple((m - n) / t for m, n, t in zip(here.mean, there.mean, there.std, strict=True)),
        mesh=mesh,
    )
    _check_hints(asked, setup.network, network, variables, here.image_shape)
    print(f"taught by {config.teacher} after step {restored.step}", flush=True)
    return TaughtData(
        training, _cached(teacher, setup, preprocess, mesh) if asked.cached else teacher
    )


def _restore(config: ml_collections.ConfigDict, mesh: Mesh, progress: Progress) -> Restored:
    named = {"workdir": config.teacher, "checkpoint": config.teacher_checkpoint}
    before = progress.teacher or {}
    which, hint = config.teacher_checkpoint, ""
    if named.items() <= before.items():
        which = before["step"]
        hint = (
            f"; this run has learnt from step {which}: to go on with another one, set"
            " config.teacher_checkpoint to its number, with --allow_config_change"
        )
    try:
        restored = restore_network(config.teacher, which, mesh_lib.replicated(mesh))
    except UserError as error:
        raise UserError(f"{error}{hint}") from error
    progress.teacher = {**named, "step": restored.step}
    return restored


def _check_fits(restored: Restored, setup: Setup, config: ml_collections.ConfigDict) -> None:
    """Raise `UserError` unless the teacher classifies the same images into the same classes."""
    there, here = restored.info, setup.info
    if restored.config.task != "classification":
        raise UserError(f"config.teacher {config.teacher} is for {restored.config.task}")
    if there.image_shape != here.image_shape:
        raise UserError(
            f"config.teacher {config.teacher} takes images of {there.image_shape}, and"
            f" {here.name} has {here.image_shape}"
        )
    unnamed = data.unnamed_classes(here.num_classes)
    if there.class_names not in (here.class_names, unnamed):
        raise UserError(
            f"config.teacher {config.teacher} knows {there.num_classes} classes of {there.name},"
            f" other ones than the {here.num_classes} of {here.name}"
        )


def _placed(restored: Restored, asked: Distillation, mesh: Mesh, sharding: str) -> Variables:
    """Return the teacher's variables on the devices, kernels in the dtype of its computation."""
    if asked.seed is None and restored.config.num_seeds > 1:
        first, last = restored.config.seed, restored.config.seed + restored.config.num_seeds - 1
        raise UserError(
            f"the teacher's run has several networks; set config.teacher_args.seed, {first} to"
            f" {last}"
        )

    def narrowed(path: Any, x: jax.Array) -> jax.Array:
        # Convolutions compute in this dtype; the classifier and normalisations are wider.
        return x.astype(asked.dtype) if path[-1].key == "kernel" and x.ndim == 4 else x

    variables = restored.variables_at(asked.seed)
    variables = jax.tree_util.tree_map_with_path(narrowed, variables)
    return jax.device_put(variables, mesh_lib.state_sharding(mesh, variables, sharding))


def _check_hints(
    asked: Distillation,
    student: nn.Module,
    teacher: nn.Module,
    variables: Variables,
    image_shape: tuple[int, int, int],
) -> None:
    """Raise `UserError` unless the endpoints of each hint are there and can be compared."""
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    (_, own), _ = jax.eval_shape(student.init_with_output, jax.random.key(0), images)
    _, others = jax.eval_shape(partial(teacher.apply, train=False), variables, images)
    for name, other in asked.hints:
        for whose, chosen, there in (("student", name, own), ("teacher", other, others)):
            if chosen not in there:
                raise unknown(f"endpoint of the {whose}", chosen, there)
        shapes = own[name].shape[1:], others[other].shape[1:]
        same = shapes[0] == shapes[1]
        if asked.hint == "attention":
            same = shapes[0][:-1] == shapes[1][:-1] and len(shapes[0]) == 3
        if not same:
            raise UserError(
                f"the hint {name!r} from {other!r} compares shapes {shapes[0]} and {shapes[1]}:"
                f" hint={asked.hint!r} needs equal "
                + ("maps" if asked.hint == "attention" else "shapes; 'attention' only equal maps")
            )


def _cached(
    teacher: Teacher, setup: Setup, preprocess: data.Preprocess, mesh: Mesh
) -> CachedTeacher:
    """Compute the teacher's logits of all training images, in the reading order of the split."""
    if not setup.info.resident:
        raise UserError(
            f"config.teacher_args.cached is for images that live on the devices, and those of"
            f" {setup.info.name} do not"
        )
    note("computing the teacher's logits of all training images")
    config = setup.config.copy_and_resolve_references()
    config.data.eval_split = setup.info.train_split
    sharding = mesh_lib.batch_sharding(mesh)
    batches = setup.task.eval_data(config, sharding)

    @partial(jax.jit, compiler_options=compiler_options())
    def step(teacher: Teacher, batch: data.Batch) -> jax.Array:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return teacher.outputs(preprocess(batch, train=False))["logits"]

    logits = np.concatenate([to_host(step(teacher, batch)) for batch in batches])
    rows = logits[: batches.num_examples].astype(np.float32)
    return CachedTeacher(mesh_lib.replicate(rows, sharding))
