"""The state of a run and the function that takes it from one step to the next."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import linen as nn
from jax.sharding import Mesh

from aggnets_jax.data import Batch, Preprocess, ResidentData, StreamedData, make_mix
from aggnets_jax.errors import UserError
from aggnets_jax.training.gradients import (
    Examples,
    accumulate_parts,
    average_over_devices,
    gather_params,
    inside_mesh,
)
from aggnets_jax.training.losses import cross_entropy, smooth_targets
from aggnets_jax.training.regularisation_schedules import Strength
from aggnets_jax.training.state import TrainState, Variables, _model_key

TrainStep = Callable[[TrainState, Batch], TrainState]


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    preprocess: Preprocess,
    config: ml_collections.ConfigDict,
    *,
    strength: Strength | None = None,
    mesh: Mesh | None = None,
) -> TrainStep:
    """Makes the pure function `(state, batch) -> state` of one update of one seed.

    The batch is that of `data.train_data`. With `config.accumulation_steps` it is computed in
    as many parts, each normalised by its own statistics, and their gradients are averaged. With
    `config.batch_norm` "device" so is the part of the batch on each device of the mesh, and the
    running averages become the mean of theirs. With `config.sharding` "fsdp" parameters are
    gathered before that, and the gradients divided.

    Raises (when it is traced):
      UserError: if `config.strength` is set and the network regularises nothing by it.
    """
    mix = make_mix(config.data)
    skip = config.data.damaged == "skip"
    gradient_fn = accumulate_parts(
        jax.value_and_grad(_make_loss(model), has_aux=True), config.accumulation_steps
    )
    if config.batch_norm == "device" and mesh is not None:
        gradient_fn = average_over_devices(gradient_fn, mesh)
    if config.sharding == "fsdp" and mesh is not None:
        gradient_fn = gather_params(gradient_fn, mesh)
    if mesh is not None:
        gradient_fn = inside_mesh(gradient_fn, mesh)

    def train_step(state: TrainState, batch: Batch) -> TrainState:
        images = preprocess(batch, train=True, seed=state.seed)
        targets = labels = batch["label"]
        if mix or config.label_smoothing or skip:
            targets = smooth_targets(
                labels, model.num_classes, config.label_smoothing, config.label_smoothing_over
            )
        if skip:  # no target, and so no loss, for an image without a label
            targets *= (labels >= 0)[:, None]
        if mix:
            images, targets = mix(images, targets, batch, state.seed)
        fixed = {}
        if strength:
            fixed = _filled(model, images, strength.value(state.strength, state.step))
        (loss, (batch_stats, correct)), gradients = gradient_fn(
            state.params,
            state.batch_stats,
            Examples(images, targets, labels),
            fixed,
            jax.random.fold_in(_model_key(state.seed), state.step),
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema and optax.incremental_update(
            {"params": params, "batch_stats": batch_stats}, state.ema, 1 - config.ema_decay
        )
        step = state.step + 1
        finite = jnp.isfinite(loss) & jnp.isfinite(
            optax.tree.norm((gradients, params, batch_stats))
        )
        after = state.replace(
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            ema=ema,
            strength=strength and strength.update(state.strength, loss),
        )
        if config.skip_nonfinite_steps:
            after = _undone_unless(finite, after, state)
        skipped = jnp.sum(labels < 0) if skip else 0
        totals = state.totals.add(step, loss, correct, finite, skipped)
        return after.replace(step=step, totals=totals)

    return train_step


def _undone_unless(finite: jax.Array, after: TrainState, before: TrainState) -> TrainState:
    """The state after a step, or what it was before; counts, on which schedules rest, go on."""

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(finite, new, old) if jnp.issubdtype(new.dtype, jnp.floating) else new

    return jax.tree.map(choose, after, before)


def _make_loss(model: nn.Module) -> Callable[..., tuple[jax.Array, tuple[Any, jax.Array]]]:
    """Makes the function from parameters and examples to (loss, (batch statistics, hits))."""

    def loss_fn(
        params: Any, batch_stats: Any, examples: Examples, fixed: Variables, key: jax.Array
    ) -> tuple[jax.Array, tuple[Any, jax.Array]]:
        (logits, _), updated = model.apply(
            {"params": params, "batch_stats": batch_stats, **fixed},
            examples.images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        losses = cross_entropy(logits, examples.targets)
        correct = jnp.sum(jnp.argmax(logits, axis=-1) == examples.labels, dtype=jnp.int32)
        return losses.mean(), (updated.get("batch_stats", {}), correct)

    return loss_fn


def default_steps_per_dispatch() -> int:
    """Steps in one call of a program on the default backend.

    On accelerators a call costs about as much as a small step. On the CPU a loop reuses the memory
    that calls ask for anew; there are fewer, as a run that is to stop first ends them.
    """
    return 10 if jax.default_backend() == "cpu" else 50


def make_train_steps(
    train_step: TrainStep, training: ResidentData | StreamedData, num_seeds: int
) -> Callable[[TrainState, Any, jax.Array], TrainState]:
    """Makes the function `(state, feed, count) -> state` of several updates, of all seeds.

    Args:
      train_step: from `make_train_step`.
      training: whose feeds it gets.
      num_seeds: with more than one, the state has an axis of seeds in front.
    """

    def one(state: TrainState, feed: Any, step: int | jax.Array) -> TrainState:
        return train_step(state, training.batch(feed, step))

    if num_seeds > 1:
        one = jax.vmap(one, in_axes=(0, training.seed_axes, None))
    if training.most_steps == 1:
        return lambda state, feed, count: one(state, feed, 0)
    return lambda state, feed, count: jax.lax.fori_loop(
        0, count, lambda i, state: one(state, feed, i), state
    )


def _filled(model: nn.Module, images: jax.Array, value: jax.Array) -> Variables:
    """The network's collection "strength", with the given value everywhere."""
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images[:1], train=False))
    if "strength" not in variables:
        raise UserError(
            "config.strength is set, and the network has nothing that it regularises: see"
            " model.args of its family (docs/networks.md), or set config.strength=0"
        )
    return {"strength": jax.tree.map(lambda _: value, variables["strength"])}
