"""What is timed: for each mode a function from a setting to a program on the devices."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import linen as nn

from aggnets_jax import config as config_lib
from aggnets_jax.benchmark.memory import check_memory, peak_bytes
from aggnets_jax.benchmark.setting import Setting
from aggnets_jax.benchmark.variables import abstract_variables, random_variables
from aggnets_jax.data import Batch, DatasetInfo, Preprocess, as_they_are
from aggnets_jax.runtime import mesh as mesh_lib
from aggnets_jax.runtime.compilation import compiler_options
from aggnets_jax.tasks.classification import Classification
from aggnets_jax.training.optimizer import make_optimizer
from aggnets_jax.training.state import TrainState, initial_state
from aggnets_jax.training.step import make_train_step

# Of which the optimiser's schedule makes a run; no step depends on its length.
TASK = Classification()
_STEPS_OF_RUN = 10_000


class Compiled(NamedTuple):
    """A program that was compiled.

    Attributes:
      call: it; None if it is no program of XLA's.
      lower_seconds: to trace and lower it; None if that is part of what compiles it.
      compile_seconds: to compile it.
    """

    call: jax.stages.Compiled | None
    lower_seconds: float | None
    compile_seconds: float


@dataclasses.dataclass
class Program:
    """What is timed.

    Attributes:
      run: makes so many steps, and waits for them.
      images: in a step; images times masks in a sweep; None if no images are computed.
      passes: over the network for an image, each as costly as a forward pass.
      compiled: the step; None if it is not compiled, or not yet.
      warms_up: whether the first run is none that counts.
      state: that the steps of training have led to; the next one is given its memory.
      peak_bytes: tells the most that was in use on a device so far; None where nobody counts.
    """

    run: Callable[[int], None]
    images: int | None
    passes: int
    compiled: Compiled | None = None
    warms_up: bool = True
    state: TrainState | None = None
    peak_bytes: Callable[[], int | None] = peak_bytes


def train(setting: Setting) -> Program:
    """The bare step of training, see `train_program`, on images that are float32 already.

    Raises:
      UserError: as `create_model`.
      OutOfMemory: if the step needs more memory than there is.
    """
    model = setting.create()
    with setting.form.tracing():
        return train_program(
            model,
            step_config(setting),
            lambda: make_batch(model, setting),
            steps_per_dispatch=setting.steps_per_dispatch,
        )


def train_program(
    model: nn.Module,
    config: ml_collections.ConfigDict,
    make_batch: Callable[[], Batch],
    preprocess: Preprocess | None = None,
    *,
    steps_per_dispatch: int = 1,
) -> Program:
    """Steps of training on one batch that stays on the devices: what a training loop can reach.

    Forward, backward, and the update of SGD with Nesterov's momentum, as
    `aggnets_jax.training.step` makes it, with the state donated. The
    parameters are random, see `random_variables`.

    Args:
      model: the network.
      config: whole, of one seed.
      make_batch: returns a batch as `preprocess` takes it, with "label" int32 [B].
      preprocess: from `data.make_preprocess`; by default images are taken as they are.
      steps_per_dispatch: as many steps are a loop in one call of the program.

    Raises:
      OutOfMemory: if the step needs more memory than there is.
    """
    preprocess = preprocess or as_they_are
    mesh = mesh_lib.make_mesh()
    everywhere, batch_sharding = mesh_lib.replicated(mesh), mesh_lib.batch_sharding(mesh)
    shapes = jax.eval_shape(make_batch)
    images = jax.eval_shape(lambda batch: preprocess(batch, train=True, seed=0), shapes)
    variables = abstract_variables(model, images.shape[1:])
    compiled = _compile_train(model, config, preprocess, variables, shapes, steps_per_dispatch)
    check_memory(compiled.call)

    batch = jax.device_put(make_batch(), batch_sharding)
    optimizer = _optimizer(config)
    state = initial_state(random_variables(variables), optimizer, config, config.seed, TASK.sums)
    # Copies: of arrays that share a buffer, as equal zeros may, no two could be donated.
    state = jax.tree.map(jnp.copy, jax.device_put(state, everywhere))

    def run(steps: int) -> None:
        for done in range(0, steps, steps_per_dispatch):
            count = np.int32(min(steps_per_dispatch, steps - done))
            program.state = compiled.call(program.state, batch, count)
        jax.block_until_ready(program.state)

    program = Program(run, images.shape[0], passes=3, compiled=compiled, state=state)
    return program


def compilation(setting: Setting) -> Program:
    """Compilations of the step of training; no step is made, and none of its memory is taken.

    Raises:
      UserError: as `create_model`.
    """
    model, config = setting.create(), step_config(setting)
    variables = abstract_variables(model, setting.image_shape)
    batch = jax.eval_shape(lambda: make_batch(model, setting))

    def run(steps: int) -> None:
        for _ in range(steps):
            jax.clear_caches()
            with setting.form.tracing():
                program.compiled = _compile_train(
                    model, config, as_they_are, variables, batch, setting.steps_per_dispatch
                )

    program = Program(run, None, passes=3, warms_up=False)
    return program


def evaluation(setting: Setting) -> Program:
    """Steps of the evaluation, `evaluate.make_eval_step`, on one batch that stays on the devices.

    Raises:
      UserError: as `create_model`.
      OutOfMemory: if the step needs more memory than there is.
    """
    from aggnets_jax.evaluate import make_eval_step

    model = setting.create()
    return _forward_program(setting, model, make_eval_step(TASK, model, as_they_are))


def ablation(setting: Setting) -> Program:
    """Steps of a sweep over links, `ablation.sweep.make_scores`: a batch, for several masks.

    Raises:
      UserError: as `create_model`, or if the network has no links.
      OutOfMemory: if the step needs more memory than there is.
    """
    from aggnets_jax.ablation.sets import single_links
    from aggnets_jax.ablation.sweep import default_at_once, linked_stages, make_scores
    from aggnets_jax.connectivity.links import collection, masks_without
    from aggnets_jax.workdir.restore import Restored

    model, mesh = setting.create(), mesh_lib.make_mesh()
    network = Restored(0, step_config(setting), _info(model, setting), model, {})
    stages = linked_stages(network)
    at_once = default_at_once(network, setting.batch_size // mesh.size)
    masks = [masks_without(stages, cut.links) for cut in single_links(stages)[:at_once]]
    changed = collection(jax.tree.map(lambda *each: np.stack(each), *masks))
    changed = jax.device_put(changed, mesh_lib.replicated(mesh))
    program = _forward_program(setting, model, make_scores(model, as_they_are, mesh), changed)
    program.images *= len(masks)
    return program


def feeding(setting: Setting) -> Program:
    """Batches of the input pipeline as in training: the smaller sets live on the devices.

    Raises:
      UserError: for images that no data set can have.
    """
    from aggnets_jax.benchmark.feeds import make_feed

    return make_feed(setting, "auto")


def streaming(setting: Setting) -> Program:
    """Batches of the input pipeline of sets that the host reads and decodes.

    Raises:
      UserError: as `feeding`.
    """
    from aggnets_jax.benchmark.feeds import make_feed

    return make_feed(setting, "never")


# Those of the input need TensorFlow; the others are to be had without.
MODES: dict[str, Callable[[Setting], Program]] = {
    "train": train,
    "eval": evaluation,
    "compile": compilation,
    "ablation": ablation,
    "input": feeding,
    "input_streamed": streaming,
}


def step_config(setting: Setting) -> ml_collections.ConfigDict:
    """The config of the step: the defaults'."""
    return config_lib.resolve({"batch_size": setting.batch_size, "dtype": setting.dtype})


def make_batch(model: nn.Module, setting: Setting) -> dict[str, jax.Array]:
    """Random images float32 [B, H, W, C], labels int32 [B], and the mask of an evaluation."""
    images, labels = jax.random.split(jax.random.key(0))
    size = setting.batch_size
    return {
        "image": jax.random.normal(images, (size, *setting.image_shape)),
        "label": jax.random.randint(labels, (size,), 0, model.num_classes),
        "mask": jnp.ones(size, bool),
    }


def _compile_train(
    model: nn.Module,
    config: ml_collections.ConfigDict,
    preprocess: Preprocess,
    variables: Any,
    batch: Any,
    steps_per_dispatch: int,
) -> Compiled:
    """Compiles `(state, batch, count) -> state`, from the shapes of variables and batch."""
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
    return _compile(jitted, state, batch, np.int32(1))


def _forward_program(setting: Setting, model: nn.Module, jitted: Any, *between: Any) -> Program:
    """The program of calls `jitted(variables, *between, batch)`."""
    mesh = mesh_lib.make_mesh()
    everywhere, batch_sharding = mesh_lib.replicated(mesh), mesh_lib.batch_sharding(mesh)
    shapes = abstract_variables(model, setting.image_shape)
    batch = jax.eval_shape(lambda: make_batch(model, setting))
    with setting.form.tracing():
        compiled = _compile(
            jitted, _placed(shapes, everywhere), *between, _placed(batch, batch_sharding)
        )
    check_memory(compiled.call)
    arguments = (
        jax.device_put(random_variables(shapes), everywhere),
        *between,
        jax.device_put(make_batch(model, setting), batch_sharding),
    )

    def run(steps: int) -> None:
        for _ in range(steps):
            result = compiled.call(*arguments)
        jax.block_until_ready(result)

    return Program(run, setting.batch_size, passes=1, compiled=compiled)


def _placed(shapes: Any, where: jax.sharding.Sharding) -> Any:
    """Shapes of arrays that lie somewhere."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes)


def _compile(jitted: Any, *arguments: Any) -> Compiled:
    began = time.perf_counter()
    lowered = jitted.lower(*arguments)
    lower_seconds = time.perf_counter() - began
    began = time.perf_counter()
    return Compiled(lowered.compile(), lower_seconds, time.perf_counter() - began)


def _optimizer(config: ml_collections.ConfigDict) -> Any:
    return make_optimizer(config, _STEPS_OF_RUN, _STEPS_OF_RUN)[0]


def _info(model: nn.Module, setting: Setting) -> DatasetInfo:
    """A data set of such images, for what asks for their shape."""
    channels = setting.image_shape[-1]
    return DatasetInfo(
        name="random",
        num_classes=model.num_classes,
        class_names=tuple(map(str, range(model.num_classes))),
        image_shape=setting.image_shape,
        num_train=setting.batch_size,
        num_eval=setting.batch_size,
        train_split="train",
        eval_split="test",
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        resident=True,
        resized=False,
    )
