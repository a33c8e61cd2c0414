r"""Micro-Dense Nets (arXiv 2004.08796), Table 3, "+": errors with dynamic regularisation.

aggnets train --config=configs/micro_dense/table3_plus.py:mdnet30_a64_c10 \
    --workdir=runs/mdnet30_a64_plus_c10

Printed: 3.28 % on CIFAR-10 and 19.47 % on CIFAR-100.

Cost: 6.0e15 MACs.

Not in the paper: constants of the regularisation, see configs/recipes/micro_dense_plus_cifar.py.
"""

from aggnets_jax.config import recipe


def get_config():
    config = recipe("micro_dense_plus_cifar")
    config.update(
        {"model": {"name": "mdnet30_a64"}, "paper": {"source": "Micro-Dense, Table 3, +"}}
    )
    return config


def sweep():
    for classes, error in ((10, 3.28), (100, 19.47)):
        yield f"mdnet30_a64_c{classes}", {"data.name": f"cifar{classes}", "paper.error": error}
