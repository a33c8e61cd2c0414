"""The state of a run and the function that takes it from one step to the next."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import linen as nn
from flax import struct

from aggnets_jax.data import Batch, Preprocess

Variables = dict[str, Any]

# Key of the model's randomness, apart from the epochs, which augmentation folds into the seed.
_MODEL_STREAM = 2**32 - 1


class Totals(struct.PyTreeNode):
    """Sums over the steps since metrics were last logged.

    They are part of the state, so that a resumed run logs what an uninterrupted one does.

    Attributes:
      loss: sum of the batches' mean losses, float32.
      correct: examples classified correctly, int32.
      steps: how many, int32.
      nonfinite_steps: how many had a loss, gradient or result that was not finite, int32.
      first_nonfinite: the first of those (counted from 1), int32; 0 if there is none.
    """

    loss: jax.Array
    correct: jax.Array
    steps: jax.Array
    nonfinite_steps: jax.Array
    first_nonfinite: jax.Array

    @classmethod
    def zeros(cls) -> "Totals":
        """Nothing summed yet."""
        zero = jnp.zeros((), jnp.int32)
        return cls(jnp.zeros((), jnp.float32), zero, zero, zero, zero)

    def add(
        self, step: jax.Array, loss: jax.Array, correct: jax.Array, finite: jax.Array
    ) -> "Totals":
        """The sums with those of one more step, counted from 1."""
        earlier = self.first_nonfinite
        return Totals(
            loss=self.loss + loss.astype(jnp.float32),
            correct=self.correct + correct,
            steps=self.steps + 1,
            nonfinite_steps=self.nonfinite_steps + ~finite,
            first_nonfinite=jnp.where(finite | (earlier > 0), earlier, step),
        )


class TrainState(struct.PyTreeNode):
    """All that a step changes.

    Attributes:
      step: updates done so far, int32.
      params: trainable parameters, float32.
      batch_stats: running averages of batch normalisations, float32.
      opt_state: of the optimiser.
      ema: averages of the parameters and batch statistics ("params", "batch_stats"), or None.
      totals: metrics since they were last logged.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Variables | None
    totals: Totals

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
) -> TrainState:
    """The state before the first step; the initialisation follows from `config.seed`."""
    key = jax.random.fold_in(jax.random.key(config.seed), _MODEL_STREAM)
    variables = model.init(key, jnp.zeros((1, *image_shape)), train=False)
    return state_before(variables, optimizer, config)


def state_before(
    variables: Variables, optimizer: optax.GradientTransformation, config: ml_collections.ConfigDict
) -> TrainState:
    """The state before the first step from given variables, "params" and maybe "batch_stats"."""
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    ema = {"params": params, "batch_stats": batch_stats} if config.ema_decay else None
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        # A copy: two names for one buffer could not both be donated.
        ema=jax.tree.map(jnp.copy, ema),
        totals=Totals.zeros(),
    )


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    """Cross entropy of each example.

    Args:
      logits: [batch, classes].
      labels: int32 [batch].
      smoothing: probability that is shared among all classes, the right one included.

    Returns:
      Losses [batch], of the logits' dtype.
    """
    if not smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
    return optax.softmax_cross_entropy(logits, targets)


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    preprocess: Preprocess,
    config: ml_collections.ConfigDict,
) -> TrainStep:
    """Makes the pure function `(state, batch) -> state` of one update.

    The batch is that of `data.train_batches`. With `config.accumulation_steps` it is computed in
    as many parts, each normalised by its own statistics, and their gradients are averaged.
    """

    def loss_fn(
        params: Any, batch_stats: Any, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[Any, jax.Array]]:
        (logits, _), updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        losses = cross_entropy(logits, labels, config.label_smoothing)
        correct = jnp.sum(jnp.argmax(logits, axis=-1) == labels, dtype=jnp.int32)
        return losses.mean(), (updated.get("batch_stats", {}), correct)

    gradient_fn = jax.value_and_grad(loss_fn, has_aux=True)

    def train_step(state: TrainState, batch: Batch) -> TrainState:
        images = preprocess(batch, train=True)
        model_key = jax.random.fold_in(jax.random.key(config.seed), _MODEL_STREAM)
        (loss, (batch_stats, correct)), gradients = _accumulate(
            gradient_fn,
            config.accumulation_steps,
            state,
            images,
            batch["label"],
            jax.random.fold_in(model_key, state.step),
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema and optax.incremental_update(
            {"params": params, "batch_stats": batch_stats}, state.ema, 1 - config.ema_decay
        )
        step = state.step + 1
        finite = jnp.isfinite(loss) & jnp.isfinite(
            optax.global_norm((gradients, params, batch_stats))
        )
        totals = state.totals.add(step, loss, correct, finite)
        return TrainState(step, params, batch_stats, opt_state, ema, totals)

    return train_step


def _accumulate(
    gradient_fn: Callable[..., Any],
    parts: int,
    state: TrainState,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
) -> Any:
    """What `gradient_fn` returns for a batch, computed in as many parts one after another."""
    if parts == 1:
        return gradient_fn(state.params, state.batch_stats, images, labels, key)

    def part(carry: Any, inputs: Any) -> tuple[Any, None]:
        batch_stats, sums = carry
        (loss, (batch_stats, correct)), gradients = gradient_fn(state.params, batch_stats, *inputs)
        return (batch_stats, jax.tree.map(jnp.add, sums, (loss, correct, gradients))), None

    # Every parts-th example, so that each device keeps to the examples that it holds.
    split = [x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1) for x in (images, labels)]
    zeros = (jnp.zeros(()), jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, state.params))
    (batch_stats, (loss, correct, gradients)), _ = jax.lax.scan(
        part, (state.batch_stats, zeros), (*split, jax.random.split(key, parts))
    )
    mean = jax.tree.map(lambda g: g / parts, gradients)
    return (loss / parts, (batch_stats, correct)), mean
