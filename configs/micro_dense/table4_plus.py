r"""Micro-Dense Nets (arXiv 2004.08796), Table 4, "+": errors with dynamic regularisation.

aggnets train --config=configs/micro_dense/table4_plus.py:mdnet60_a115_c10 \
    --workdir=runs/mdnet60_a115_plus_c10

Printed: 2.16 % on CIFAR-10 and 15.36 % on CIFAR-100.

Cost: 3.0e16 MACs.

Not in the paper: constants of the regularisation, see configs/recipes/micro_dense_plus_cifar.py.
"""

from aggnets_jax.config import recipe


def get_config():
    config = recipe("micro_dense_plus_cifar")
    config.update(
        {"model": {"name": "mdnet60_a115"}, "paper": {"source": "Micro-Dense, Table 4, +"}}
    )
    return config


def sweep():
    for classes, error in ((10, 2.16), (100, 15.36)):
        yield f"mdnet60_a115_c{classes}", {"data.name": f"cifar{classes}", "paper.error": error}
