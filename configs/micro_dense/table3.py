r"""Micro-Dense Nets (arXiv 2004.08796), Table 3: errors on CIFAR-10 and CIFAR-100.

aggnets train --config=configs/micro_dense/table3.py:mdnet30_a64_c10 \
    --workdir=runs/mdnet30_a64_c10

Printed: a Micro-Dense Net of 0.7M parameters. The row with a "+", dynamic regularisation, is in
table3_plus.py; the others are quoted from other papers.

Cost: 6.0e15 MACs.

Not in the paper: the ratio of compression in a block, which follows from the size.
"""

from aggnets_jax.config import recipe
from aggnets_jax.models.papers import reproduced


def get_config():
    return recipe("micro_dense_cifar")


def sweep():
    for network, data, row in reproduced("Micro-Dense, Table 3", "cifar10", "cifar100"):
        yield f"{network}_{data.replace('cifar', 'c')}", row
