"""How the Micro-Dense Nets with a "+" are trained on CIFAR: under dynamic regularisation.

aggnets train --config=configs/recipes/micro_dense_plus_cifar.py --workdir=runs/plus

All else is as in micro_dense_cifar.py. Residual branches are scaled by random numbers, whose spread
grows after each step in which the smoothed training loss fell (arXiv 1909.11862).

Not in the paper: the constants. Here branches are scaled by 1 +- 1 at most, in the last block, and
the rest is as in `dynamic_gaussian` of aggnets_jax/training/regularisation_schedules.py.
"""

from aggnets_jax.config import recipe


def get_config():
    config = recipe("micro_dense_cifar")
    config.update(
        {
            "model": {"args": {"dynamic_regularisation": True}},
            "strength": 1.0,
            "strength_schedule": "dynamic_gaussian",
        }
    )
    return config
