"""How the Micro-Dense Nets with a "+" are trained on CIFAR: under dynamic regularisation.

python -m aggnets_jax.main --config=configs/recipes/micro_dense_plus_cifar.py --workdir=runs/plus

All else is as in micro_dense_cifar.py. Residual branches are scaled by random numbers, which spread
the more the further the training loss falls (arXiv 1909.11862).

Not in the paper: the constants. Here those of aggnets_jax/strength.py, and branches are scaled by
0.5 +- 1 at most.
"""

from aggnets_jax.config import recipe


def get_config():
    config = recipe("micro_dense_cifar")
    config.update(
        {
            "model": {"args": {"dynamic_regularisation": True}},
            "strength": 1.0,
            "strength_schedule": "dynamic",
        }
    )
    return config
