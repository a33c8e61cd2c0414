"""Learning-rate schedules by name: functions of the number of updates so far.

Each schedule gets the highest learning rate (`lr`), the updates in the run (`total_steps`) and in
an epoch (`steps_per_epoch`, in general no whole number), and arguments of its own. An argument that
ends in `_steps` may be given in epochs: `warmup_epochs=5` means `warmup_steps` of five epochs, for
any batch size. An unknown name or argument, or a value that is not allowed, raises `UserError`.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from aggnets_jax.arguments import check_arguments, check_number, check_whole_number, choose
from aggnets_jax.errors import UserError, unknown

_LONGEST_TABLE = 100_000  # of cycles or epochs, as a constant of the compiled step
_RATES = 100_000  # that are computed at once for the log


def constant(
    lr: float, total_steps: int, steps_per_epoch: float, *, warmup_steps: float = 0
) -> optax.Schedule:
    """Keep the learning rate, after a linear rise from 0 over `warmup_steps`."""
    check_number("warmup_steps", warmup_steps, 0, 2**31)
    if not round(warmup_steps):
        return optax.constant_schedule(lr)
    return optax.linear_schedule(0.0, lr, round(warmup_steps))


def step(
    lr: float,
    total_steps: int,
    steps_per_epoch: float,
    *,
    boundaries: Sequence[float] = (0.5, 0.75),
    factor: float = 0.1,
    warmup_steps: float = 0,
    warmup_factor: float = 1 / 3,
) -> optax.Schedule:
    """Multiply by `factor` at each boundary, a fraction of the run.

    Before that, the rate rises linearly from `warmup_factor * lr` over `warmup_steps`. The
    defaults of the boundaries are those of DenseNet, SparseNet and SeqConv (epochs 150 and 225 of
    300) and of DSNet (iterations 32,000 and 48,000 of 64,000).
    """
    if not all(0 < b < 1 for b in boundaries) or sorted(set(boundaries)) != list(boundaries):
        raise UserError(f"boundaries must be rising fractions of the run, got {boundaries}")
    check_number("factor", factor, 0, 1)
    check_number("warmup_steps", warmup_steps, 0, 2**31)
    check_number("warmup_factor", warmup_factor, 0, 1)
    # The first step has the highest rate, however short the run is.
    starts = np.array([0, *(max(1, round(b * total_steps)) for b in boundaries)], np.int32)
    values = (lr * factor ** np.arange(len(starts))).astype(np.float32)
    if not round(warmup_steps):
        return lambda count: jnp.asarray(values)[_last_begun(starts, count)]
    rise = optax.linear_schedule(warmup_factor, 1.0, round(warmup_steps))
    return lambda count: rise(count) * jnp.asarray(values)[_last_begun(starts, count)]


def linear(
    lr: float,
    total_steps: int,
    steps_per_epoch: float,
    *,
    warmup_steps: float = 0,
    start_factor: float = 0.0,
    end_factor: float = 0.0,
) -> optax.Schedule:
    """Rise linearly from `start_factor * lr` over `warmup_steps`, then fall to `end_factor * lr`.

    A run that ends within the warm-up does not fall.
    """
    check_number("warmup_steps", warmup_steps, 0, 2**31)
    check_number("start_factor", start_factor, 0, 1)
    check_number("end_factor", end_factor, 0, 1)
    rise = min(round(warmup_steps), total_steps)
    fall = optax.linear_schedule(lr, end_factor * lr, max(1, total_steps - rise))
    if not rise:
        return fall
    rising = optax.linear_schedule(start_factor * lr, lr, round(warmup_steps))
    return optax.join_schedules([rising, fall], [rise])


def cosine(
    lr: float,
    total_steps: int,
    steps_per_epoch: float,
    *,
    warmup_steps: float = 0,
    end_factor: float = 0.0,
) -> optax.Schedule:
    """Fall by half a cosine to `end_factor * lr`, after a linear rise from 0 over `warmup_steps`.

    A run that ends within the warm-up has no cosine.
    """
    check_number("warmup_steps", warmup_steps, 0, 2**31)
    check_number("end_factor", end_factor, 0, 1)
    rise = min(round(warmup_steps), total_steps)
    fall = optax.cosine_decay_schedule(lr, max(1, total_steps - rise), alpha=end_factor)
    if not rise:
        return fall
    return optax.join_schedules([optax.linear_schedule(0.0, lr, round(warmup_steps)), fall], [rise])


def warmup_cosine(
    lr: float, total_steps: int, steps_per_epoch: float, *, warmup_steps: float
) -> optax.Schedule:
    """Multiply half a cosine over the whole run by a linear rise from 0 to 1 over `warmup_steps`.

    Micro-Dense Nets, equations 15 and 16; the highest learning rate is somewhat below `lr`.
    """
    check_number("warmup_steps", warmup_steps, 0, 2**31)
    fall = optax.cosine_decay_schedule(lr, total_steps)
    if not warmup_steps:
        return fall
    rise = optax.linear_schedule(0.0, 1.0, warmup_steps)
    return lambda count: rise(count) * fall(count)


def sgdr(
    lr: float,
    total_steps: int,
    steps_per_epoch: float,
    *,
    first_cycle_steps: float,
    cycle_multiplier: float = 2.0,
    every: str = "step",
    repeats: int = 1,
) -> optax.Schedule:
    """Fall to 0 by cosines with warm restarts (arXiv 1608.03983); see `cycle_fraction`."""
    fraction = cycle_fraction(
        total_steps, steps_per_epoch, first_cycle_steps, cycle_multiplier, every, repeats
    )
    return lambda count: lr * 0.5 * (1 + jnp.cos(jnp.pi * fraction(count)))


def cycle_fraction(
    total_steps: int,
    steps_per_epoch: float,
    first_cycle_steps: float,
    cycle_multiplier: float = 2.0,
    every: str = "step",
    repeats: int = 1,
) -> Callable[[ArrayLike], jax.Array]:
    """Return how far each step is in its cycle: from 0, where a cycle begins, to below 1.

    Args:
      total_steps: updates in the run.
      steps_per_epoch: updates in an epoch. A batch that holds the end of an epoch and the beginning
        of the next belongs to the former.
      first_cycle_steps: length of the first cycle.
      cycle_multiplier: ratio of the lengths of a cycle and the one before it, at least 1.
      every: "step", or "epoch" for the fraction at its epoch's beginning, in all of the epoch;
        the first cycle then is a whole number of epochs.
      repeats: number of equal parts of the run that begin with a first cycle each.

    Returns:
      A function of the number of updates so far, int32, to float32 of the same shape.
    """
    check_number("first_cycle_steps", first_cycle_steps, 1, 2**31)
    check_number("cycle_multiplier", cycle_multiplier, 1, 100)
    check_whole_number("repeats", repeats, 1, _LONGEST_TABLE)
    if every not in ("step", "epoch"):
        raise unknown("value of every", every, ("step", "epoch"))
    if every == "step":
        starts, lengths = _cycles(total_steps, first_cycle_steps, cycle_multiplier, repeats)

        def fraction_of_step(count: ArrayLike) -> jax.Array:
            cycle = _last_begun(starts, count)
            # Subtracted as integers, because float32 is exact up to 2**24 only.
            return (count - jnp.asarray(starts)[cycle]) / jnp.asarray(lengths, jnp.float32)[cycle]

        return fraction_of_step

    first_steps = _first_steps_of_epochs(total_steps, steps_per_epoch)
    epochs = np.arange(len(first_steps))
    first_cycle = round(first_cycle_steps / steps_per_epoch, 6)
    if first_cycle % 1:
        raise UserError(
            f"with every='epoch' the first cycle must be a whole number of epochs, it has"
            f" {first_cycle:g}"
        )
    starts, lengths = _cycles(len(epochs), first_cycle, cycle_multiplier, repeats)
    cycles = np.searchsorted(starts, epochs, side="right") - 1
    fractions = ((epochs - starts[cycles]) / lengths[cycles]).astype(np.float32)
    return lambda count: jnp.asarray(fractions)[_last_begun(first_steps, count)]


def _cycles(
    total: int, first: float, multiplier: float, repeats: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the start of each cycle, int32, and its length, float64, in steps or epochs."""
    starts, lengths = [], []
    for part in range(repeats):
        start, end = (-(-n * total // repeats) for n in (part, part + 1))
        length = first
        while start < end:
            starts.append(start)
            lengths.append(length)
            start, length = start + length, length * multiplier
            if len(starts) > _LONGEST_TABLE:
                raise UserError(f"the run has more than {_LONGEST_TABLE} cycles; make them longer")
    return _first_at_or_after(np.array(starts)).astype(np.int32), np.array(lengths)


def _first_steps_of_epochs(total_steps: int, steps_per_epoch: float) -> np.ndarray:
    """Return the first step of each epoch: the first step with a batch that begins in it."""
    if total_steps > _LONGEST_TABLE * steps_per_epoch:
        raise UserError(f"the run has more than {_LONGEST_TABLE} epochs; use every='step'")
    epochs = np.arange(math.ceil(total_steps / steps_per_epoch) + 1)
    first_steps = _first_at_or_after(epochs * steps_per_epoch)
    return first_steps[first_steps < total_steps].astype(np.int32)


def _first_at_or_after(positions: np.ndarray) -> np.ndarray:
    # A whole number must stay one despite rounding errors.
    return np.ceil(np.round(positions, 6))


def _last_begun(starts: np.ndarray, count: ArrayLike) -> jax.Array:
    """Return the index of the last of the rising `starts` that is not after `count`."""
    return jnp.searchsorted(jnp.asarray(starts), count, side="right") - 1


SCHEDULES = {f.__name__: f for f in (constant, step, linear, cosine, warmup_cosine, sgdr)}


def make_schedule(
    name: str, lr: float, total_steps: int, steps_per_epoch: float, /, **arguments: Any
) -> optax.Schedule:
    """Make one of `SCHEDULES`; its arguments in steps may be given in epochs."""
    return bind("schedule", SCHEDULES, name, total_steps, steps_per_epoch, arguments)(lr)


class Rates:
    """Learning rates for the log of a run, computed for many steps at once.

    A program for each line of the log would wait for the steps before it.
    """

    def __init__(self, schedule: optax.Schedule, total_steps: int) -> None:
        self.total_steps = total_steps
        self._size = min(total_steps, _RATES)
        self._compute = jax.jit(jax.vmap(schedule))
        self._block = functools.lru_cache(maxsize=1)(self._computed)

    def _computed(self, block: int) -> np.ndarray:
        return jax.device_get(self._compute(block * self._size + np.arange(self._size)))

    def before(self, step: int) -> float:
        """Return the learning rate of update number `step`, counted from 1."""
        block, place = divmod(step - 1, self._size)
        return float(self._block(block)[place])

    def peak(self) -> float:
        """Return the highest rate of the run; of a long one, of equally spaced steps."""
        steps = np.linspace(0, self.total_steps - 1, self._size)
        return float(jax.device_get(self._compute(steps.astype(np.int32))).max())


def low_peak(rates: Rates, highest: float) -> str | None:
    """Return why the learning rates of a run may be a mistake: they never come near the highest.

    The highest rate of `warmup_cosine` is below `highest` by design, by less than 5 % unless the
    warm-up takes a large part of the run.
    """
    if (peak := rates.peak()) >= 0.95 * highest:
        return None
    return (
        f"the learning rate rises to {peak:.3g}, and not to {highest:.3g}:"
        f" the warm-up is too long for a run of {rates.total_steps} steps"
    )


def bind(
    kind: str,
    functions: Mapping[str, Callable],
    name: str,
    total_steps: int,
    steps_per_epoch: float,
    arguments: Mapping[str, Any],
) -> Callable[[float], Any]:
    """Return the function of a name with checked arguments; it takes only the highest value."""
    function = choose(kind, functions, name)
    arguments = epochs_to_steps(function, arguments, steps_per_epoch)
    check_arguments(f"{kind} {name!r}", function, arguments)
    return lambda highest: function(highest, total_steps, steps_per_epoch, **arguments)


def epochs_to_steps(
    function: Callable, arguments: Mapping[str, Any], steps_per_epoch: float
) -> dict[str, Any]:
    """Replace a function's arguments in epochs by those in steps; one must not be given in both."""
    converted = dict(arguments)
    for name in arguments:
        twin = f"{name.removesuffix('_epochs')}_steps"
        if not name.endswith("_epochs") or twin not in inspect.signature(function).parameters:
            continue
        if twin in arguments:
            raise UserError(f"give one of {name!r} and {twin!r}, not both")
        check_number(name, arguments[name], 0)
        converted[twin] = steps = converted.pop(name) * steps_per_epoch
        if 0 < steps < 0.5:
            raise UserError(
                f"{name} {arguments[name]} is less than half a step: an epoch has"
                f" {steps_per_epoch:.3g} steps; allowed: 0, or at least"
                f" {math.ceil(50 / steps_per_epoch) / 100:g}"
            )
    return converted
