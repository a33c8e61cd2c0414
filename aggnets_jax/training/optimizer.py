"""The optimiser of a config: clipping, one of the algorithms, and factors by parameter."""

import math
import re
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from aggnets_jax.arguments import check_arguments, choose
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.files import explained
from aggnets_jax.training.algorithms import OPTIMIZERS, Common, is_kernel, is_schedule_free
from aggnets_jax.training.layer_decay import layer_factors
from aggnets_jax.training.schedules import make_schedule
from aggnets_jax.training.state import leaves_by_path

_Factors = list[tuple[re.Pattern, float]]


def make_optimizer(
    config: ml_collections.ConfigDict,
    total_steps: int,
    steps_per_epoch: float,
    layers: Callable[[], Sequence[str]] = tuple,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Make the optimiser of a config, and its learning rate as a function of the step.

    The gradient is clipped; then comes one of `OPTIMIZERS`. With the default, SGD, weight decay is
    added, then come momentum and the learning rate, as in PyTorch: v <- m v + (g + w p);
    p <- p - lr (g + w p + m v) with Nesterov's. A parameter's factor of the learning rate
    multiplies its whole update. Frozen parameters, with factor 0, stay the same to the bit, and the
    norm for clipping leaves out their gradients. `total_steps` and `steps_per_epoch` are as in
    `schedules`. `layers` returns the layers in order, for `config.layer_decay`.

    Raises:
      UserError: for an unknown schedule or optimiser, a wrong argument of it, averages of its
        averages, or ill-formed `config.lr_factors`; from the optimiser's `init`, for a pattern
        there that fits no parameter.
    """
    highest = highest_learning_rate(config)
    schedule = make_schedule(
        config.schedule, highest, total_steps, steps_per_epoch, **config.schedule_args
    )
    algorithm = choose("optimizer", OPTIMIZERS, config.optimizer)
    check_arguments(f"optimizer {config.optimizer!r}", algorithm, config.optimizer_args)
    decayed = is_kernel if config.weight_decay_on == "kernels" else None
    factors = Factors(
        _parse_factors(config.lr_factors),
        config.layer_decay,
        layers() if config.layer_decay != 1 else (),
    )
    inside = is_schedule_free(config.optimizer)  # where the factors act
    if inside and config.ema_decay:
        raise UserError(f"config.optimizer {config.optimizer!r} has averages: set ema_decay=0")
    common = Common(
        schedule,
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        (decayed or _all) if config.weight_decay else _none,
        config.momentum,
        config.nesterov,
        optax.stateless(factors.multiply) if inside and factors else optax.identity(),
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.grad_clip_norm)
        if config.grad_clip_norm
        else optax.identity(),
        *algorithm(common, **config.optimizer_args),
    )
    if factors:
        after = factors.freeze if inside else factors.multiply
        optimizer = optax.chain(optax.masked(optimizer, factors.trained), optax.stateless(after))
    return optimizer, schedule


def trained(lr_factors: Sequence[Any]) -> Callable[[Any], Any]:
    """Return a function that maps the parameters to a tree of bools: True where they are trained.

    The factors are those of `config.lr_factors`.
    """
    return Factors(_parse_factors(lr_factors)).trained


def highest_learning_rate(config: ml_collections.ConfigDict) -> float:
    """Return `config.lr` scaled to the batch size, the highest learning rate of the schedule."""
    scale = config.batch_size / config.lr_batch_size if config.lr_batch_size else 1
    return config.lr * scale


def _all(params: Any) -> Any:
    return jax.tree.map(lambda _: True, params)


def _none(params: Any) -> Any:
    return jax.tree.map(lambda _: False, params)


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


class Factors:
    """Factors of the learning rate, by pattern of a parameter's path and by layer.

    It is true unless all factors are 1.
    """

    def __init__(self, patterns: _Factors, decay: float = 1.0, layers: Sequence[str] = ()) -> None:
        self._patterns, self._decay, self._layers = patterns, decay, layers

    def __bool__(self) -> bool:
        return bool(self._patterns) or self._decay != 1

    def trained(self, params: Any) -> Any:
        """Return which parameters are not frozen, bools in a tree like the parameters."""
        for pattern, _ in self._patterns:
            paths = list(leaves_by_path(params))
            if not any(map(pattern.fullmatch, paths)):
                raise unknown("pattern of parameters in config.lr_factors", pattern.pattern, paths)
        return jax.tree.map(bool, self._by_pattern(params))

    def multiply(self, updates: Any, params: Any) -> Any:
        """Multiply updates by the factors, and freeze parameters of factor 0."""
        factors = self._by_pattern(updates)
        if self._decay != 1:
            of_layers = layer_factors(updates, self._layers, self._decay)
            factors = jax.tree.map(
                lambda factor, layer: factor and factor * layer, factors, of_layers
            )
        return jax.tree.map(_times, updates, factors)

    def freeze(self, updates: Any, params: Any) -> Any:
        """Freeze parameters of factor 0."""
        factors = jax.tree.map(lambda factor: factor and 1.0, self._by_pattern(updates))
        return jax.tree.map(_times, updates, factors)

    def _by_pattern(self, params: Any) -> Any:
        """Return the factor of each parameter, in a tree like the parameters."""
        factors = (
            next((factor for pattern, factor in self._patterns if pattern.fullmatch(path)), 1.0)
            for path in leaves_by_path(params)
        )
        return jax.tree.unflatten(jax.tree.structure(params), factors)


def _times(update: jax.Array, factor: Any) -> jax.Array:
    # Adding the negative zero, and no other number, leaves every number as it is.
    return factor * update if np.any(factor) else jnp.full_like(update, -0.0)
