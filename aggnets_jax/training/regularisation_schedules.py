"""Strength of a regularisation inside the network, as a function of the step, by name.

The network decides what is regularised: DropBlock drops this share of positions; dynamic
regularisation scales residual branches by random numbers of about this size (see
`layers/regularisation.py`).

Each schedule gets the `highest` strength, the updates in the run (`total_steps`) and in an epoch
(`steps_per_epoch`, in general no whole number), and arguments of its own. Errors are as in
`schedules`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from flax import struct

from aggnets_jax.arguments import check_number, check_whole_number
from aggnets_jax.errors import unknown
from aggnets_jax.training.schedules import bind, cycle_fraction


class StrengthState(struct.PyTreeNode):
    """State of a strength that depends on the training loss; float32.

    `smoothed_loss`, infinite before the first step, is a moving average of the training loss, or
    for `dynamic_gaussian` the last loss; `differences` are the changes of the loss in the last
    steps, the newest first.
    """

    value: jax.Array
    smoothed_loss: jax.Array
    differences: jax.Array | None = None


class Strength(NamedTuple):
    """A strength that changes in training: three pure functions.

    Attributes:
      init: `init()` is the `StrengthState` before the first step.
      value: `value(state, step)` is the strength, float32, in the step after `step` updates.
      update: `update(state, loss)` is the state after a step, from the mean loss of its batch.
    """

    init: Callable[[], StrengthState]
    value: Callable[[StrengthState, jax.Array], jax.Array]
    update: Callable[[StrengthState, jax.Array], StrengthState]


def constant(highest: float, total_steps: int, steps_per_epoch: float) -> Strength:
    """Keep the highest strength at every step."""
    return _by_step(lambda step: jnp.float32(highest))


def fade(highest: float, total_steps: int, steps_per_epoch: float) -> Strength:
    """Fall from the highest strength to 0, linearly over the run (Deeply-Supervised Nets)."""
    return _by_step(lambda step: highest * (1 - step / jnp.float32(total_steps)))


def sawtooth(
    highest: float,
    total_steps: int,
    steps_per_epoch: float,
    *,
    first_cycle_steps: float,
    cycle_multiplier: float = 2.0,
    every: str = "epoch",
    repeats: int = 1,
    shape: str = "cosine",
) -> Strength:
    """Rise from 0 towards the highest in each cycle of the learning rate, and fall back to 0.

    The cycles are those of `schedules.cycle_fraction`, with its arguments. `shape` is "linear", or
    "cosine", by which strength and learning rate have a constant sum if their highest values are
    the same (the reference code of HCGNet).
    """
    fraction = cycle_fraction(
        total_steps, steps_per_epoch, first_cycle_steps, cycle_multiplier, every, repeats
    )
    if shape not in ("cosine", "linear"):
        raise unknown("value of shape", shape, ("cosine", "linear"))
    if shape == "linear":
        return _by_step(lambda step: highest * fraction(step))
    return _by_step(lambda step: highest * 0.5 * (1 - jnp.cos(jnp.pi * fraction(step))))


def dynamic(
    highest: float,
    total_steps: int,
    steps_per_epoch: float,
    *,
    initial: float = 0.0,
    increment: float = 1e-3,
    decrement: float = 1e-3,
    smoothing: float = 0.9,
) -> Strength:
    """Grow after a step in which a moving average of the loss fell, and shrink after any other.

    This is like `dynamic_gaussian` with another smoothing, which needs no window of losses. The
    strength is `initial` in the first two steps, before a loss can have fallen, and stays within 0
    and `highest`. `smoothing` is the weight of the earlier average in the moving average.
    """
    _check_changes(highest, initial, increment, decrement)
    check_number("smoothing", smoothing, 0, 0.999999)

    def update(state: StrengthState, loss: jax.Array) -> StrengthState:
        earlier, loss = state.smoothed_loss, jnp.asarray(loss, jnp.float32)
        first = jnp.isinf(earlier)
        smoothed = jnp.where(first, loss, smoothing * earlier + (1 - smoothing) * loss)
        change = jnp.where(smoothed < earlier, jnp.float32(increment), -jnp.float32(decrement))
        value = jnp.clip(state.value + jnp.where(first, 0.0, change), 0.0, highest)
        return StrengthState(value, smoothed)

    return Strength(
        lambda: StrengthState(jnp.float32(initial), jnp.float32(jnp.inf)),
        lambda state, step: state.value,
        update,
    )


def dynamic_gaussian(
    highest: float,
    total_steps: int,
    steps_per_epoch: float,
    *,
    initial: float = 0.0,
    increment: float = 1e-3,
    decrement: float = 1e-3,
    window: int = 300,
    width: float = 0.4,
) -> Strength:
    """Grow after a step in which the training loss fell, smoothed by a Gaussian, else shrink.

    This is the rule of Wang et al., "Convolutional Neural Networks with Dynamic Regularization",
    arXiv 1909.11862, as described by public summaries and a port. The change of the loss in step t
    is

        sum over n = 0, ..., window of w[n] (loss[t - n] - loss[t - n - 1]),
        w[n] ~ exp(-((n - window / 2) / (width window / 2))^2 / 2)

    where differences from before the run are 0. The window and its width are the port's; the steps
    `increment` and `decrement` are ours. The strength is `initial` in the first two steps, and
    stays within 0 and `highest`.
    """
    _check_changes(highest, initial, increment, decrement)
    check_whole_number("window", window, 1, 100_000)
    check_number("width", width, 0.01, 10)
    offsets = (jnp.arange(window + 1, dtype=jnp.float32) - window / 2) / (width * window / 2)
    weights = jnp.exp(-0.5 * offsets**2)

    def update(state: StrengthState, loss: jax.Array) -> StrengthState:
        earlier, loss = state.smoothed_loss, jnp.asarray(loss, jnp.float32)
        first = jnp.isinf(earlier)
        newest = jnp.where(first, 0.0, loss - earlier)
        differences = jnp.concatenate([newest[None], state.differences[:-1]])
        fell = jnp.sum(weights * differences) < 0
        change = jnp.where(fell, jnp.float32(increment), -jnp.float32(decrement))
        value = jnp.clip(state.value + jnp.where(first, 0.0, change), 0.0, highest)
        return StrengthState(value, loss, differences)

    no_differences = jnp.zeros(window + 1, jnp.float32)
    return Strength(
        lambda: StrengthState(jnp.float32(initial), jnp.float32(jnp.inf), no_differences),
        lambda state, step: state.value,
        update,
    )


def _check_changes(highest: float, initial: float, increment: float, decrement: float) -> None:
    """Check the arguments that both dynamic strengths have."""
    check_number("initial", initial, 0, highest)
    check_number("increment", increment, 0)
    check_number("decrement", decrement, 0)


def _by_step(value: Callable[[jax.Array], jax.Array]) -> Strength:
    """Make a strength that does not depend on the loss."""
    return Strength(
        lambda: StrengthState(jnp.float32(0.0), jnp.float32(jnp.inf)),
        lambda state, step: value(step),
        lambda state, loss: state,
    )


STRENGTHS = {f.__name__: f for f in (constant, fade, sawtooth, dynamic, dynamic_gaussian)}


def make_strength(
    config: ml_collections.ConfigDict, total_steps: int, steps_per_epoch: float
) -> Strength | None:
    """Make the strength of a config; None if `config.strength`, the highest, is 0.

    `config.strength_schedule` is one of `STRENGTHS`, and `config.strength_args` has its arguments;
    those in steps may be given in epochs.
    """
    name, arguments = config.strength_schedule, config.strength_args
    strength = bind("strength_schedule", STRENGTHS, name, total_steps, steps_per_epoch, arguments)
    check_number("strength", config.strength, 0)
    return strength(config.strength) if config.strength else None
