r"""Micro-Dense Nets (arXiv 2004.08796), Table 4: errors on CIFAR-10 and CIFAR-100.

aggnets train --config=configs/micro_dense/table4.py:mdnet60_a115_c10 \
    --workdir=runs/mdnet60_a115_c10

Printed: a Micro-Dense Net of 4.0M parameters. The row with a "+", dynamic regularisation, is in
table4_plus.py; the others are quoted from other papers.

Cost: 3.0e16 MACs.

Not in the paper: the ratio of compression in a block, which follows from the size.
"""

from aggnets_jax.config import recipe
from aggnets_jax.models.papers import reproduced


def get_config():
    return recipe("micro_dense_cifar")


def sweep():
    for network, data, row in reproduced("Micro-Dense, Table 4", "cifar10", "cifar100"):
        yield f"{network}_{data.replace('cifar', 'c')}", row
