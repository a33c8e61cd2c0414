"""The state of training: variables, optimiser state, sums for the log; one for each seed."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import linen as nn
from flax import struct

from aggnets_jax.training.regularisation_schedules import Strength, StrengthState

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
        return initial_state(variables, optimizer, config, seed, strength)

    return over_seeds(create, config.num_seeds)(seeds(config))


def initial_state(
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


def at_seed(tree: Any, number: int, num_seeds: int) -> Any:
    """What belongs to one of a run's seeds, by its number from 0."""
    return tree if num_seeds == 1 else jax.tree.map(lambda x: x[number], tree)


def over_seeds(function: Callable[..., Any], num_seeds: int, in_axes: Any = 0) -> Callable:
    """The function, or with several seeds the function of all of them at once."""
    return function if num_seeds == 1 else jax.vmap(function, in_axes)


def _model_key(seed: jax.Array) -> jax.Array:
    # The generator is named because under vmap others draw something else for a seed.
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), _MODEL_STREAM)


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, such as "params/stem/kernel", in the tree's order."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
