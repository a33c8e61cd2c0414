"""The training step, from one state of a run to the next, and its compilation."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax.sharding import Mesh

from aggnets_jax.data import Batch, Preprocess, ResidentData, StreamedData
from aggnets_jax.errors import UserError
from aggnets_jax.layers.batch_norm import OneValue
from aggnets_jax.runtime.compilation import compiler_options, count_cache_hits
from aggnets_jax.runtime.memory import check_memory
from aggnets_jax.runtime.mesh import batch_sharding, replicate
from aggnets_jax.training.algorithms import averaged, is_schedule_free
from aggnets_jax.training.gradients import (
    Phases,
    accumulate_parts,
    at_sharpest,
    average_over_devices,
    devices_of_statistics,
    gather_params,
    inside_mesh,
)
from aggnets_jax.training.optimizer import trained
from aggnets_jax.training.regularisation_schedules import Strength
from aggnets_jax.training.state import TrainState, Variables, add_to_totals, model_key
from aggnets_jax.training.task import Task

TrainStep = Callable[[TrainState, Batch], TrainState]

_ARRAYS_IN_SUM = 32


def make_train_step(
    task: Task,
    model: Any,
    optimizer: optax.GradientTransformation,
    preprocess: Preprocess,
    config: ml_collections.ConfigDict,
    *,
    strength: Strength | None = None,
    phases: Phases | None = None,
    mesh: Mesh | None = None,
) -> TrainStep:
    """Make the pure function `(state, batch) -> state` of one update of one seed.

    A batch, from the task's training data, is computed in `config.accumulation_steps` parts, each
    normalised by its own statistics; their gradients are averaged. With `config.batch_norm`
    "device" or "group:N", so is the part on each device or on N of them, and running averages are
    averaged. With `config.sharding` "fsdp" parameters are gathered before, and the gradients
    divided. With `config.sam_radius` the gradient is taken at the sharpest point (`at_sharpest`).
    Images are scaled by `phases`.

    Raises:
      UserError: if the devices can't be divided into groups of N; when it is traced, if
        `config.strength` is set and the network regularises nothing by it, or if a normalisation
        has one value of each channel.
    """
    prepare = task.make_prepare(model, preprocess, config)
    gradient_fn = jax.value_and_grad(task.make_loss(model, config), has_aux=True)
    gradient_fn = accumulate_parts(gradient_fn, config.accumulation_steps, task.sums)
    parts = config.accumulation_steps  # which are normalised apart
    if mesh is not None:
        prepare = inside_mesh(prepare, mesh)
        if config.batch_norm not in ("global", "global_shifted"):
            group = devices_of_statistics(config.batch_norm, mesh.size)
            parts *= mesh.size // group
            gradient_fn = average_over_devices(gradient_fn, mesh, group)
        if config.sharding == "fsdp":
            gradient_fn = gather_params(gradient_fn, mesh)
        shifted = config.batch_norm == "global_shifted"
        gradient_fn = inside_mesh(gradient_fn, mesh, shifted=shifted)
    if config.sam_radius:
        gradient_fn = at_sharpest(
            gradient_fn, config.sam_radius, trained(task.lr_factors(model, config))
        )

    def train_step(state: TrainState, batch: Batch) -> TrainState:
        examples = prepare(batch, state.seed)
        fixed = {}
        if strength:
            fixed = _filled(model, examples.images, strength.value(state.strength, state.step))
        key = jax.random.fold_in(model_key(state.seed), state.step)
        variables = state.params, state.batch_stats
        of_step = phases.gradient(gradient_fn, state.step) if phases else gradient_fn
        try:
            (loss, (batch_stats, sums)), gradients = of_step(*variables, examples, fixed, key)
        except OneValue as error:
            raise OneValue(error.path, f"config.batch_size={2 * parts}") from error
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema and _averages(config, state, params, batch_stats, opt_state)
        step = state.step + 1
        finite = jnp.isfinite(loss) & _has_finite_norm((gradients, params, batch_stats))
        changed = {"params": params, "batch_stats": batch_stats, "opt_state": opt_state, "ema": ema}
        after = state.replace(
            **changed, strength=strength and strength.update(state.strength, loss)
        )
        if config.skip_nonfinite_steps:
            after = _undone_unless(finite, after, state)
        totals = add_to_totals(state.totals, step, finite, {"loss": loss, **sums})
        return after.replace(step=step, totals=totals)

    return train_step


def _averages(
    config: ml_collections.ConfigDict,
    state: TrainState,
    params: Any,
    batch_stats: Any,
    opt_state: Any,
) -> Variables:
    """Return the averages after a step, from the state before it and the new variables."""
    if is_schedule_free(config.optimizer):
        return {"params": averaged(opt_state, params), "batch_stats": batch_stats}
    new = {"params": params, "batch_stats": batch_stats}
    return optax.incremental_update(new, state.ema, ema_rate(config, state.step))


def ema_rate(config: ml_collections.ConfigDict, updates: jax.Array) -> float | jax.Array:
    """Return the share of the new weights in their average, for the update after `updates`."""
    if not config.ema_warmup:
        return 1 - config.ema_decay
    updates = updates.astype(jnp.float32)
    # As in TensorFlow's ExponentialMovingAverage with `num_updates`.
    return jnp.maximum(1 - config.ema_decay, 9 / (10 + updates))


def _has_finite_norm(tree: Any) -> jax.Array:
    """Return whether the sum of the squares of all numbers is finite, bool [].

    XLA:CPU needs a time that grows with the cube of the number of arrays to compile their sum as
    one expression. So no more are summed at once, and a barrier keeps the partial sums apart.
    """
    arrays = jax.tree.leaves(tree)
    partial_sums = [
        sum(jnp.sum(jnp.square(x)) for x in arrays[first : first + _ARRAYS_IN_SUM])
        for first in range(0, len(arrays), _ARRAYS_IN_SUM)
    ]
    return jnp.isfinite(sum(jax.lax.optimization_barrier(partial_sums)))


def _undone_unless(finite: jax.Array, after: TrainState, before: TrainState) -> TrainState:
    """Return the state after a step, or if it is not finite the one before.

    Integers, such as the counts for schedules, are not undone.
    """

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(finite, new, old) if jnp.issubdtype(new.dtype, jnp.floating) else new

    return jax.tree.map(choose, after, before)


def _filled(model: Any, images: jax.Array, value: jax.Array) -> Variables:
    """Return the network's collection "strength", with the given value everywhere."""
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images[:1], train=False))
    if "strength" not in variables:
        raise UserError(
            "config.strength is set, and the network has nothing that it regularises: see"
            " model.args of its family (docs/networks.md), or set config.strength=0"
        )
    return {"strength": jax.tree.map(lambda _: value, variables["strength"])}


def default_steps_per_dispatch() -> int:
    """Return the number of steps in one call of a program on the default backend.

    On accelerators a call costs about as much as a small step. On CPU a loop reuses the memory that
    calls allocate again; there are fewer steps, because a run that is to stop finishes them first.
    """
    return 10 if jax.default_backend() == "cpu" else 50


def make_train_steps(
    train_step: TrainStep, training: ResidentData | StreamedData, num_seeds: int
) -> Callable[[TrainState, Any, jax.Array], TrainState]:
    """Make the function `(state, feed, count) -> state` of several updates, of all seeds."""

    def one(state: TrainState, feed: Any, step: int | jax.Array) -> TrainState:
        return train_step(state, training.batch(feed, step))

    if num_seeds > 1:
        one = jax.vmap(one, in_axes=(0, training.seed_axes, None))
    if training.most_steps == 1:
        return lambda state, feed, count: one(state, feed, 0)
    return lambda state, feed, count: jax.lax.fori_loop(
        0, count, lambda i, state: one(state, feed, i), state
    )


class CompiledSteps:
    """Several updates as one compiled program; the state is donated to each call.

    Feeds of other shapes, as batches of images of another size, have a program each, which is
    compiled, and printed, when the first comes.

    Attributes:
      program: the program of the first feed, from the function of `make_train_steps`.
      seconds: time that its compilation took.
      seconds_saved: time that the compilation cache saved; None if the program was not in it.
    """

    def __init__(
        self, train_steps: Callable[..., TrainState], state: TrainState, feed: Any, mesh: Mesh
    ) -> None:
        self._mesh, began = mesh, time.perf_counter()
        self._jitted = jax.jit(
            train_steps,
            donate_argnums=0,
            out_shardings=jax.tree.map(lambda x: x.sharding, state),
            compiler_options=compiler_options(),
        )
        with count_cache_hits() as hits:
            self.program = self._compile(state, feed)
        self.seconds = time.perf_counter() - began
        self.seconds_saved = sum(hits) if hits else None
        self._programs = {_shapes(feed): self.program}
        self._done: jax.Array | None = None

    def _compile(self, state: TrainState, feed: Any) -> jax.stages.Compiled:
        program = self._jitted.lower(state, feed, _count(1, self._mesh)).compile()
        check_memory(program, placed=True)
        return program

    def __call__(self, state: TrainState, feed: Any, count: int) -> TrainState:
        """Begin to make `count` updates, and wait for those of the call before.

        Otherwise the host could be 32 calls ahead, which a run that is to stop must finish.
        """
        shapes = _shapes(feed)
        if shapes not in self._programs:
            began = time.perf_counter()
            self._programs[shapes] = self._compile(state, feed)
            seconds = time.perf_counter() - began
            print(f"step compiled for batches of another size in {seconds:.1f} s", flush=True)
        state = self._programs[shapes](state, feed, _count(count, self._mesh))
        before, self._done = self._done, jnp.copy(state.step)
        jax.block_until_ready(before)
        return state


def _shapes(feed: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(array.shape for array in jax.tree.leaves(feed))


@functools.cache
def _count(steps: int, mesh: Mesh) -> jax.Array:
    # Placed explicitly and once: a program waits for numbers that it gets from the host.
    return replicate(np.asarray(steps, np.int32), batch_sharding(mesh))
