r"""Micro-Dense Nets (arXiv 2004.08796), Table 3, "+": errors with dynamic regularisation.

aggnets train --config=configs/micro_dense/table3_plus.py:mdnet30_a64_c10 \
    --workdir=runs/mdnet30_a64_plus_c10

Printed: the row with a "+" of the Micro-Dense Net of table3.py.

Cost: 6.0e15 MACs.

Not in the paper: constants of the regularisation, see configs/recipes/micro_dense_plus_cifar.py.
"""

from aggnets_jax.config import recipe
from aggnets_jax.models.papers import reproduced


def get_config():
    return recipe("micro_dense_plus_cifar")


def sweep():
    for network, data, row in reproduced("Micro-Dense, Table 3, +", "cifar10", "cifar100"):
        yield f"{network}_{data.replace('cifar', 'c')}", row
