"""Learning-rate schedules by name: functions of the number of updates done so far."""

from collections.abc import Callable, Sequence
from typing import Any

import optax

from aggnets_jax import named
from aggnets_jax.errors import UserError


def constant(lr: float, total_steps: int) -> optax.Schedule:
    """The same at every step."""
    return optax.constant_schedule(lr)


def step(
    lr: float,
    total_steps: int,
    *,
    boundaries: Sequence[float] = (0.5, 0.75),
    factor: float = 0.1,
) -> optax.Schedule:
    """Multiplied by `factor` at each boundary, a fraction of the run.

    The defaults are those of SparseNet and DenseNet: epochs 150 and 225 of 300.
    """
    if not all(0 < b < 1 for b in boundaries) or sorted(set(boundaries)) != list(boundaries):
        raise UserError(f"boundaries must be rising fractions of the run, got {boundaries}")
    named.check_number("factor", factor, 0, 1)
    return optax.piecewise_constant_schedule(
        lr, {round(b * total_steps): factor for b in boundaries}
    )


def cosine(
    lr: float, total_steps: int, *, warmup_steps: int = 0, end_factor: float = 0.0
) -> optax.Schedule:
    """Half a cosine down to `end_factor * lr`, after a linear rise from 0 over `warmup_steps`."""
    named.check_number("warmup_steps", warmup_steps, 0, total_steps - 1)
    named.check_number("end_factor", end_factor, 0, 1)
    if not warmup_steps:
        return optax.cosine_decay_schedule(lr, total_steps, alpha=end_factor)
    return optax.warmup_cosine_decay_schedule(
        0.0, lr, warmup_steps, total_steps, end_value=end_factor * lr
    )


def sgdr(
    lr: float, total_steps: int, *, first_cycle_steps: int, cycle_multiplier: float = 2.0
) -> optax.Schedule:
    """Cosines to 0 with warm restarts, each `cycle_multiplier` times longer (arXiv 1608.03983)."""
    named.check_number("first_cycle_steps", first_cycle_steps, 1, total_steps)
    named.check_number("cycle_multiplier", cycle_multiplier, 1, 100)
    cycles, ends = [], [0]
    while ends[-1] < total_steps:
        steps = round(first_cycle_steps * cycle_multiplier ** len(cycles))
        cycles.append(optax.cosine_decay_schedule(lr, steps))
        ends.append(ends[-1] + steps)
    return optax.join_schedules(cycles, ends[1:-1])


SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
    f.__name__: f for f in (constant, step, cosine, sgdr)
}


def make_schedule(name: str, lr: float, total_steps: int, /, **arguments: Any) -> optax.Schedule:
    """Makes a schedule.

    Args:
      name: one of `SCHEDULES`.
      lr: the highest learning rate.
      total_steps: updates in the run.
      **arguments: the schedule's own.

    Raises:
      UserError: for an unknown name or argument, or a value the schedule does not admit.
    """
    function = named.choose("schedule", SCHEDULES, name)
    named.check_arguments(f"schedule {name!r}", function, arguments)
    return function(lr, total_steps, **arguments)
