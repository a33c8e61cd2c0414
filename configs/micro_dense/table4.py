r"""Micro-Dense Nets (arXiv 2004.08796), Table 4: errors on CIFAR-10 and CIFAR-100.

aggnets train --config=configs/micro_dense/table4.py:mdnet60_a115_c10 \
    --workdir=runs/mdnet60_a115_c10

Printed: 2.58 and 16.92 % for a Micro-Dense Net of 4.0M parameters. The row with a "+",
dynamic regularisation, is in table4_plus.py; the others are quoted from other papers.

Cost: 3.0e16 MACs.

Not in the paper: the ratio of compression in a block, which follows from the size.
"""

from aggnets_jax.config import recipe


def get_config():
    config = recipe("micro_dense_cifar")
    config.update({"model": {"name": "mdnet60_a115"}, "paper": {"source": "Micro-Dense, Table 4"}})
    return config


def sweep():
    for classes, error in ((10, 2.58), (100, 16.92)):
        yield f"mdnet60_a115_c{classes}", {"data.name": f"cifar{classes}", "paper.error": error}
