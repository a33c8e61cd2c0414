"""SGD as in the papers' reference scripts."""

import math
import re
from collections.abc import Sequence
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from aggnets_jax.connectivity.scan_variables import layers_of_run
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.files import explained
from aggnets_jax.training.schedules import make_schedule
from aggnets_jax.training.state import leaves_by_path

_Factors = list[tuple[re.Pattern, float]]


def make_optimizer(
    config: ml_collections.ConfigDict, total_steps: int, steps_per_epoch: float
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Make the optimiser of a config, and its learning rate as a function of the step.

    The gradient is clipped, then weight decay is added, then come momentum and the learning rate,
    as in PyTorch: v <- m v + (g + w p); p <- p - lr (g + w p + m v) with Nesterov's. A parameter's
    factor of the learning rate multiplies its whole update. Frozen parameters, with factor 0, stay
    the same to the bit, and the norm for clipping leaves out their gradients. `total_steps` and
    `steps_per_epoch` are as in `schedules`.

    Raises:
      UserError: for an unknown schedule, a wrong argument of it, or ill-formed `config.lr_factors`;
        from the optimiser's `init`, for a pattern there that fits no parameter.
    """
    highest = highest_learning_rate(config)
    schedule = make_schedule(
        config.schedule, highest, total_steps, steps_per_epoch, **config.schedule_args
    )
    decayed = _is_kernel if config.weight_decay_on == "kernels" else None
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.grad_clip_norm)
        if config.grad_clip_norm
        else optax.identity(),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        optax.sgd(schedule, momentum=config.momentum or None, nesterov=config.nesterov),
    )
    if factors := _parse_factors(config.lr_factors):
        optimizer = _multiply_updates(optimizer, factors)
    return optimizer, schedule


def highest_learning_rate(config: ml_collections.ConfigDict) -> float:
    """Return `config.lr` for the config's batch size, of which a schedule takes fractions."""
    scale = config.batch_size / config.lr_batch_size if config.lr_batch_size else 1
    return config.lr * scale


def _is_kernel(params: Any) -> Any:
    def decide(path: Any, value: jax.Array) -> bool:
        axis_of_layers = any(layers_of_run(key.key) for key in path)
        return value.ndim - axis_of_layers > 1

    return jax.tree_util.tree_map_with_path(decide, params)


def _parse_factors(pairs: Sequence[Any]) -> _Factors:
    """Check pairs of a pattern and a factor, and compile the patterns."""
    factors = []
    for pair in pairs:
        match pair:
            case str(pattern), Real() as factor if not isinstance(factor, bool):
                pass
            case _:
                raise UserError(
                    "config.lr_factors must be pairs of a pattern and a factor, such as"
                    f" (('stem.*', 0.0),), got {pair!r}"
                )
        if not (math.isfinite(factor) and factor >= 0):
            raise UserError(
                f"config.lr_factors: the factor of {pattern!r} must be at least 0 and finite,"
                f" got {factor}"
            )
        problem = f"config.lr_factors: {pattern!r} is no regular expression"
        with explained(problem, re.error, OverflowError, RecursionError):
            factors.append((re.compile(pattern), float(factor)))
    return factors


def _multiply_updates(
    optimizer: optax.GradientTransformation, factors: _Factors
) -> optax.GradientTransformation:
    """Multiply an optimiser's updates by factors; it never sees parameters of factor 0."""

    def is_trained(params: Any) -> Any:
        return jax.tree.map(bool, _factor_of_each(params, factors))

    def multiply(updates: Any, params: Any) -> Any:
        # Adding the negative zero, and no other number, leaves every number as it is.
        return jax.tree.map(
            lambda update, factor: factor * update if factor else jnp.full_like(update, -0.0),
            updates,
            _factor_of_each(updates, factors),
        )

    return optax.chain(optax.masked(optimizer, is_trained), optax.stateless(multiply))


def _factor_of_each(params: Any, factors: _Factors) -> Any:
    """Return the factor of each parameter, in a tree like the parameters."""
    paths = list(leaves_by_path(params))
    for pattern, _ in factors:
        if not any(map(pattern.fullmatch, paths)):
            raise unknown("path of parameters in config.lr_factors", pattern.pattern, paths)
    factors_by_path = (
        next((factor for pattern, factor in factors if pattern.fullmatch(path)), 1.0)
        for path in paths
    )
    return jax.tree.unflatten(jax.tree.structure(params), factors_by_path)
