"""SGD as the papers' reference scripts have it."""

from typing import Any

import jax
import ml_collections
import optax

from aggnets_jax.schedules import make_schedule


def make_optimizer(
    config: ml_collections.ConfigDict,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Makes the optimiser of a config, and its learning rate as a function of the step.

    The gradient is clipped, then weight decay is added, then come momentum and the learning rate,
    as in PyTorch: v <- m v + (g + w p); p <- p - lr (g + w p + m v) with Nesterov's.

    Raises:
      UserError: for a schedule that is unknown or ill-configured.
    """
    schedule = make_schedule(config.schedule, config.lr, config.total_steps, **config.schedule_args)
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
