r"""Micro-Dense Nets (arXiv 2004.08796), Table 4, "+": errors with dynamic regularisation.

aggnets train --config=configs/micro_dense/table4_plus.py:mdnet60_a115_c10 \
    --workdir=runs/mdnet60_a115_plus_c10

Printed: the row with a "+" of the Micro-Dense Net of table4.py.

Cost: 3.0e16 MACs.

Not in the paper: constants of the regularisation, see configs/recipes/micro_dense_plus_cifar.py.
"""

from aggnets_jax.config import recipe
from aggnets_jax.models.papers import reproduced


def get_config():
    return recipe("micro_dense_plus_cifar")


def sweep():
    for network, data, row in reproduced("Micro-Dense, Table 4, +", "cifar10", "cifar100"):
        yield f"{network}_{data.replace('cifar', 'c')}", row
