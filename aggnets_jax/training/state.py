"""The state of training: variables, optimiser state, sums for the log; one for each seed."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import linen as nn
from flax import struct
from jax.typing import DTypeLike

from aggnets_jax.training.algorithms import is_schedule_free
from aggnets_jax.training.regularisation_schedules import Strength, StrengthState

Variables = dict[str, Any]

# Key of the model's randomness, apart from the epochs, which augmentation folds into the seed.
_MODEL_STREAM = 2**32 - 1

Totals = dict[str, jax.Array]
"""Sums over the steps since metrics were last logged. They are a part of the state, so that a
resumed run logs the same as an uninterrupted one.

    loss              of the batches' mean losses, float32; of finite steps alone, as a task's sums
    steps             number of steps, int32
    nonfinite_steps   number of steps with a loss, gradient or result that is not finite, int32
    first_nonfinite   the first of them, counted from 1, int32; 0 if there is none
    ...               the sums that the task names
"""


def zero_totals(sums: Mapping[str, DTypeLike]) -> Totals:
    """Return totals of no steps, for a task's `sums`."""
    counts = dict.fromkeys(("steps", "nonfinite_steps", "first_nonfinite"), jnp.int32)
    return {name: jnp.zeros((), t) for name, t in {"loss": jnp.float32, **counts, **sums}.items()}


def add_to_totals(
    totals: Totals, step: jax.Array, finite: jax.Array, sums: Mapping[str, jax.Array]
) -> Totals:
    """Add a step, counted from 1, with its loss and the task's sums."""
    earlier = totals["first_nonfinite"]
    return {
        "steps": totals["steps"] + 1,
        "nonfinite_steps": totals["nonfinite_steps"] + ~finite,
        "first_nonfinite": jnp.where(finite | (earlier > 0), earlier, step),
        **{
            name: totals[name] + jnp.where(finite, value, 0).astype(totals[name].dtype)
            for name, value in sums.items()
        },
    }


class TrainState(struct.PyTreeNode):
    """All arrays that a step changes; with several seeds each has them as first axis.

    Attributes:
      seed: seed of everything random, int32. It is a part of the state, so that the compiled step
        is the same for every seed.
      step: number of updates so far, int32.
      params: trainable parameters, float32.
      batch_stats: running averages of batch normalisations, float32.
      opt_state: state of the optimiser.
      ema: averages of the parameters and batch statistics ("params", "batch_stats"), or None.
      strength: state of a regularisation schedule, or None.
      totals: sums since metrics were last logged.
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
        """`step` as a number; all seeds have the same."""
        return int(np.ravel(self.step)[0])

    @property
    def variables(self) -> Variables:
        """Variables for evaluation: the averages if there are any, else the parameters."""
        return self.ema or {"params": self.params, "batch_stats": self.batch_stats}


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    config: ml_collections.ConfigDict,
    image_shape: tuple[int, int, int],
    sums: Mapping[str, DTypeLike],
    strength: Strength | None = None,
) -> TrainState:
    """Create the state before the first step; the seeds of `config` decide the initialisation.

    The other arguments are fields of a `Setup`, and the names and dtypes of a task's sums.
    """

    def create(seed: jax.Array) -> TrainState:
        variables = model.init(model_key(seed), jnp.zeros((1, *image_shape)), train=False)
        return initial_state(variables, optimizer, config, seed, sums, strength)

    return over_seeds(create, config.num_seeds)(seeds(config))


def initial_state(
    variables: Variables,
    optimizer: optax.GradientTransformation,
    config: ml_collections.ConfigDict,
    seed: int | jax.Array,
    sums: Mapping[str, DTypeLike],
    strength: Strength | None = None,
) -> TrainState:
    """Create the state of a seed from given variables, "params" and maybe "batch_stats"."""
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    ema = {"params": params, "batch_stats": batch_stats} if has_averages(config) else None
    return TrainState(
        seed=jnp.asarray(seed, jnp.int32),
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        # A copy: two names for one buffer could not both be donated.
        ema=jax.tree.map(jnp.copy, ema),
        strength=strength and strength.init(),
        totals=zero_totals(sums),
    )


def has_averages(config: ml_collections.ConfigDict) -> bool:
    """Return whether a run evaluates averages of its parameters, "ema" of the state."""
    return config.ema_decay > 0 or is_schedule_free(config.optimizer)


def seeds(config: ml_collections.ConfigDict) -> np.ndarray:
    """Return the seed of a run, int32 [], or its seeds [num_seeds]."""
    first = np.int32(config.seed)
    return first if config.num_seeds == 1 else first + np.arange(config.num_seeds, dtype=np.int32)


def at_seed(tree: Any, number: int, num_seeds: int) -> Any:
    """Return the arrays of one of a run's seeds, by its number from 0."""
    return tree if num_seeds == 1 else jax.tree.map(lambda x: x[number], tree)


def over_seeds(function: Callable[..., Any], num_seeds: int, in_axes: Any = 0) -> Callable:
    """Return the function, or with several seeds the function of all of them at once."""
    return function if num_seeds == 1 else jax.vmap(function, in_axes)


def model_key(seed: jax.Array) -> jax.Array:
    """Return the key of a network's initialisation and dropout."""
    # The generator is named because under vmap others draw something else for a seed.
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), _MODEL_STREAM)


def model_shapes(model: nn.Module, image_shape: tuple[int, int, int]) -> Variables:
    """Return the shapes of a network's variables, without computing them."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree, in its order, by paths such as "params/stem/kernel"."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
