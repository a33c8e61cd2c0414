"""Modes of the benchmark: each is a function from a workload to a program on the devices.

They raise `UserError` as `create_model` does, and `OutOfMemory` if a step does not fit.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import linen as nn

from aggnets_jax.ablation.sets import single_links
from aggnets_jax.ablation.sweep import default_at_once, linked_stages, make_scores
from aggnets_jax.benchmark.input_pipeline import input_batches
from aggnets_jax.benchmark.program import Compiled, Program, compile_program
from aggnets_jax.benchmark.workload import Workload, abstract_variables, random_variables
from aggnets_jax.connectivity.links import collection, masks_without
from aggnets_jax.data import Batch, Preprocess, as_they_are
from aggnets_jax.evaluate import make_eval_step
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.runtime.compilation import compiler_options
from aggnets_jax.runtime.memory import check_memory
from aggnets_jax.tasks.classification import Classification
from aggnets_jax.training.optimizer import make_optimizer
from aggnets_jax.training.setup import DataSizes
from aggnets_jax.training.state import TrainState, initial_state
from aggnets_jax.training.step import make_train_step
from aggnets_jax.workdir.restore import Restored

# Length of the optimiser's schedule; the cost of a step does not depend on it.
_SCHEDULE_STEPS = 10_000
TASK = Classification()


def train(workload: Workload) -> Program:
    """Return the program of `train_program`, on images that are float32 already."""
    with workload.form.tracing():
        return train_program(
            workload.create(),
            workload.config(),
            workload.random_batch,
            steps_per_dispatch=workload.steps_per_dispatch,
        )


def train_program(
    model: nn.Module,
    config: ml_collections.ConfigDict,
    make_batch: Callable[[], Batch],
    preprocess: Preprocess = as_they_are,
    *,
    steps_per_dispatch: int = 1,
) -> Program:
    """Compile training on one batch that stays on the devices: the upper bound of a training loop.

    A step is forward, backward and the update by SGD with Nesterov's momentum, as
    `aggnets_jax.training.step` makes it, with the state donated. The parameters are random, see
    `random_variables`.

    Args:
      model: the network.
      config: resolved, with one seed.
      make_batch: returns a batch for `preprocess`, with "label" int32 [B].
      preprocess: from `data.make_preprocess`; by default images are not changed.
      steps_per_dispatch: number of steps that one call of the program runs in a loop.
    """
    mesh = mesh_lib.make_mesh()
    shapes = jax.eval_shape(make_batch)
    images = jax.eval_shape(lambda batch: preprocess(batch, train=True, seed=0), shapes)
    variables = abstract_variables(model, images.shape[1:])
    compiled = _compile_train(model, config, preprocess, variables, shapes, steps_per_dispatch)
    check_memory(compiled.call)

    batch = jax.device_put(make_batch(), mesh_lib.batch_sharding(mesh))
    state = initial_state(
        random_variables(variables), _optimizer(config), config, config.seed, TASK.sums
    )
    # Equal zeros may share a buffer, and a shared buffer can't be donated twice: copy all.
    state = jax.tree.map(jnp.copy, jax.device_put(state, mesh_lib.replicated(mesh)))

    def run(steps: int) -> None:
        for done in range(0, steps, steps_per_dispatch):
            count = np.int32(min(steps_per_dispatch, steps - done))
            program.state = compiled.call(program.state, batch, count)
        jax.block_until_ready(program.state)

    program = Program(run, images.shape[0], passes=3, compiled=compiled, state=state)
    return program


def compilation(workload: Workload) -> Program:
    """Return a program that compiles the training step without running it or taking its memory."""
    model, config = workload.create(), workload.config()
    variables = abstract_variables(model, workload.image_shape)
    batch = jax.eval_shape(workload.random_batch)

    def run(steps: int) -> None:
        for _ in range(steps):
            jax.clear_caches()
            with workload.form.tracing():
                program.compiled = _compile_train(
                    model, config, as_they_are, variables, batch, workload.steps_per_dispatch
                )

    program = Program(run, None, passes=3, warms_up=False)
    return program


def evaluation(workload: Workload) -> Program:
    """Return a program that evaluates one batch on the devices with `evaluate.make_eval_step`."""
    return _forward_program(workload, make_eval_step(TASK, workload.create(), as_they_are))


def ablation(workload: Workload) -> Program:
    """Return a step of `ablation.sweep`: a batch under several link masks at once.

    Raises:
      UserError: also if the network has no links.
    """
    model, mesh = workload.create(), mesh_lib.make_mesh()
    sizes = DataSizes(model.num_classes, workload.image_shape, workload.batch_size)
    network = Restored(0, workload.config(), sizes, model, {})
    stages = linked_stages(network)
    at_once = default_at_once(network, workload.batch_size // mesh.size)
    masks = [masks_without(stages, cut.links) for cut in single_links(stages)[:at_once]]
    links = collection(jax.tree.map(lambda *each: np.stack(each), *masks))
    links = jax.device_put(links, mesh_lib.replicated(mesh))
    program = _forward_program(workload, make_scores(model, as_they_are, mesh), links)
    program.images *= len(masks)
    return program


# The input modes need TensorFlow, the others do not.
MODES: dict[str, Callable[[Workload], Program]] = {
    "train": train,
    "eval": evaluation,
    "compile": compilation,
    "ablation": ablation,
    "input": functools.partial(input_batches, resident="auto"),
    "input_streamed": functools.partial(input_batches, resident="never"),
}


def _compile_train(
    model: nn.Module,
    config: ml_collections.ConfigDict,
    preprocess: Preprocess,
    variables: Any,
    batch: Any,
    steps_per_dispatch: int,
) -> Compiled:
    """Compile `(state, batch, count) -> state` from the shapes of variables and batch."""
    mesh = mesh_lib.make_mesh()
    optimizer = _optimizer(config)
    step = make_train_step(TASK, model, optimizer, preprocess, config, mesh=mesh)

    def steps(state: TrainState, batch: Batch, count: jax.Array) -> TrainState:
        if steps_per_dispatch == 1:
            return step(state, batch)
        return jax.lax.fori_loop(0, count, lambda _, state: step(state, batch), state)

    state = jax.eval_shape(
        lambda variables: initial_state(variables, optimizer, config, config.seed, TASK.sums),
        variables,
    )
    everywhere = mesh_lib.replicated(mesh)
    jitted = jax.jit(
        steps,
        donate_argnums=0,
        in_shardings=(everywhere, mesh_lib.batch_sharding(mesh), everywhere),
        out_shardings=everywhere,
        compiler_options=compiler_options(),
    )
    return compile_program(jitted, state, batch, np.int32(1))


def _forward_program(workload: Workload, jitted: Any, *between: Any) -> Program:
    """Return the program that calls `jitted(variables, *between, batch)`."""
    mesh = mesh_lib.make_mesh()
    everywhere, batch_sharding = mesh_lib.replicated(mesh), mesh_lib.batch_sharding(mesh)
    shapes = abstract_variables(workload.create(), workload.image_shape)
    batch = jax.eval_shape(workload.random_batch)
    with workload.form.tracing():
        compiled = compile_program(
            jitted,
            mesh_lib.shapes_on(shapes, everywhere),
            *between,
            mesh_lib.shapes_on(batch, batch_sharding),
        )
    check_memory(compiled.call)
    arguments = (
        jax.device_put(random_variables(shapes), everywhere),
        *between,
        jax.device_put(workload.random_batch(), batch_sharding),
    )

    def run(steps: int) -> None:
        for _ in range(steps):
            result = compiled.call(*arguments)
        jax.block_until_ready(result)

    return Program(run, workload.batch_size, passes=1, compiled=compiled)


def _optimizer(config: ml_collections.ConfigDict) -> Any:
    return make_optimizer(config, _SCHEDULE_STEPS, _SCHEDULE_STEPS)[0]
