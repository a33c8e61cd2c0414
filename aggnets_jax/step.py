"""The state of a run and the function that takes it from one step to the next."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import linen as nn
from flax import struct
from jax.sharding import Mesh

from aggnets_jax.data import Batch, Preprocess, ResidentData, StreamedData, make_mix
from aggnets_jax.errors import UserError
from aggnets_jax.gradients import Examples, accumulated, each_device, gathered, on_mesh
from aggnets_jax.losses import cross_entropy, smooth_targets
from aggnets_jax.strength import Strength, StrengthState

Variables = dict[str, Any]

# Key of the model's randomness, apart from the epochs, which augmentation folds into the seed.
_MODEL_STREAM = 2**32 - 1


class Totals(struct.PyTreeNode):
    """Sums over the steps since metrics were last logged.

    They are part of the state, so that a resumed run logs what an uninterrupted one does.

    Attributes:
      loss: sum of the batches' mean losses, float32; of the finite steps, as `correct` and
        `skipped`.
      correct: examples classified correctly, int32.
      steps: how many, int32.
      nonfinite_steps: how many had a loss, gradient or result that was not finite, int32.
      first_nonfinite: the first of those (counted from 1), int32; 0 if there is none.
      skipped: images that were damaged, and skipped, int32.
    """

    loss: jax.Array
    correct: jax.Array
    steps: jax.Array
    nonfinite_steps: jax.Array
    first_nonfinite: jax.Array
    skipped: jax.Array

    @classmethod
    def zeros(cls) -> "Totals":
        """Nothing summed yet."""
        zero = jnp.zeros((), jnp.int32)
        return cls(jnp.zeros((), jnp.float32), zero, zero, zero, zero, zero)

    def add(
        self,
        step: jax.Array,
        loss: jax.Array,
        correct: jax.Array,
        finite: jax.Array,
        skipped: int | jax.Array,
    ) -> "Totals":
        """The sums with those of one more step, counted from 1."""
        earlier = self.first_nonfinite
        return Totals(
            loss=self.loss + jnp.where(finite, loss, 0).astype(jnp.float32),
            correct=self.correct + jnp.where(finite, correct, 0),
            steps=self.steps + 1,
            nonfinite_steps=self.nonfinite_steps + ~finite,
            first_nonfinite=jnp.where(finite | (earlier > 0), earlier, step),
            skipped=self.skipped + jnp.where(finite, skipped, 0),
        )


class TrainState(struct.PyTreeNode):
    """All that a step changes.

    With several seeds every array has an axis of seeds in front.

    Attributes:
      seed: of everything random, int32; a part of the state, so that the compiled step is the same
        for every seed.
      step: updates done so far, int32.
      params: trainable parameters, float32.
      batch_stats: running averages of batch normalisations, float32.
      opt_state: of the optimiser.
      ema: averages of the parameters and batch statistics ("params", "batch_stats"), or None.
      strength: from which that of a changing regularisation follows, or None.
      totals: metrics since they were last logged.
    """

    seed: jax.Array
    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Variables | None
    strength: StrengthState | None
    totals: Totals

    @property
    def updates(self) -> int:
        """`step` as a number; that of several seeds is the same."""
        return int(np.ravel(self.step)[0])

    @property
    def variables(self) -> Variables:
        """What is evaluated: the averages if there are any, else the parameters."""
        return self.ema or {"params": self.params, "batch_stats": self.batch_stats}


TrainStep = Callable[[TrainState, Batch], TrainState]


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    config: ml_collections.ConfigDict,
    image_shape: tuple[int, int, int],
    strength: Strength | None = None,
) -> TrainState:
    """The state before the first step; the initialisation follows from the seeds of `config`."""

    def create(seed: jax.Array) -> TrainState:
        variables = model.init(_model_key(seed), jnp.zeros((1, *image_shape)), train=False)
        return state_before(variables, optimizer, config, seed, strength)

    return over_seeds(create, config.num_seeds)(seeds(config))


def state_before(
    variables: Variables,
    optimizer: optax.GradientTransformation,
    config: ml_collections.ConfigDict,
    seed: int | jax.Array,
    strength: Strength | None = None,
) -> TrainState:
    """The state before the first step from given variables, "params" and maybe "batch_stats"."""
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    ema = {"params": params, "batch_stats": batch_stats} if config.ema_decay else None
    return TrainState(
        seed=jnp.asarray(seed, jnp.int32),
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        # A copy: two names for one buffer could not both be donated.
        ema=jax.tree.map(jnp.copy, ema),
        strength=strength and strength.init(),
        totals=Totals.zeros(),
    )


def seeds(config: ml_collections.ConfigDict) -> np.ndarray:
    """The seed of a run, int32 [], or its seeds [num_seeds]."""
    first = np.int32(config.seed)
    return first if config.num_seeds == 1 else first + np.arange(config.num_seeds, dtype=np.int32)


def of_seed(tree: Any, number: int, num_seeds: int) -> Any:
    """What belongs to one of a run's seeds, by its number from 0."""
    return tree if num_seeds == 1 else jax.tree.map(lambda x: x[number], tree)


def over_seeds(function: Callable[..., Any], num_seeds: int, in_axes: Any = 0) -> Callable:
    """The function, or with several seeds the function of all of them at once."""
    return function if num_seeds == 1 else jax.vmap(function, in_axes)


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
    gradient_fn = accumulated(
        jax.value_and_grad(_make_loss(model), has_aux=True), config.accumulation_steps
    )
    if config.batch_norm == "device" and mesh is not None:
        gradient_fn = each_device(gradient_fn, mesh)
    if config.sharding == "fsdp" and mesh is not None:
        gradient_fn = gathered(gradient_fn, mesh)
    if mesh is not None:
        gradient_fn = on_mesh(gradient_fn, mesh)

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


def _model_key(seed: jax.Array) -> jax.Array:
    # The generator is named because under vmap others draw something else for a seed.
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), _MODEL_STREAM)


def _filled(model: nn.Module, images: jax.Array, value: jax.Array) -> Variables:
    """The network's collection "strength", with the given value everywhere."""
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images[:1], train=False))
    if "strength" not in variables:
        raise UserError(
            "config.strength is set, and the network has nothing that it regularises: see"
            " model.args of its family (docs/networks.md), or set config.strength=0"
        )
    return {"strength": jax.tree.map(lambda _: value, variables["strength"])}
