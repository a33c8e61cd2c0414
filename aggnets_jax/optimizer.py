"""SGD as the papers' reference scripts have it."""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from aggnets_jax.errors import UserError, one_line, unknown
from aggnets_jax.schedules import make_schedule


def make_optimizer(
    config: ml_collections.ConfigDict, total_steps: int, steps_per_epoch: float
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Makes the optimiser of a config, and its learning rate as a function of the step.

    The gradient is clipped, then weight decay is added, then come momentum and the learning rate,
    as in PyTorch: v <- m v + (g + w p); p <- p - lr (g + w p + m v) with Nesterov's.

    Args:
      config: whole.
      total_steps: updates in the run.
      steps_per_epoch: updates in an epoch; need not be a whole number.

    Raises:
      UserError: for a schedule that is unknown or ill-configured, or factors of the learning rate
        that are; the optimiser's `init` for those of no parameter.
    """
    scale = config.batch_size / config.lr_batch_size if config.lr_batch_size else 1
    schedule = make_schedule(
        config.schedule, config.lr * scale, total_steps, steps_per_epoch, **config.schedule_args
    )
    decayed = _is_kernel if config.weight_decay_on == "kernels" else None
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.grad_clip_norm)
        if config.grad_clip_norm
        else optax.identity(),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        optax.sgd(schedule, momentum=config.momentum or None, nesterov=config.nesterov),
    )
    return optimizer, schedule


def _is_kernel(params: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim > 1, params)
