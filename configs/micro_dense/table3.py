r"""Micro-Dense Nets (arXiv 2004.08796), Table 3: errors on CIFAR-10 and CIFAR-100.

aggnets train --config=configs/micro_dense/table3.py:mdnet30_a64_c10 \
    --workdir=runs/mdnet30_a64_c10

Printed: 3.41 and 20.85 % for a Micro-Dense Net of 0.7M parameters. The row with a "+",
dynamic regularisation, is in table3_plus.py; the others are quoted from other papers.

Cost: 6.0e15 MACs.

Not in the paper: the ratio of compression in a block, which follows from the size.
"""

from aggnets_jax.config import recipe


def get_config():
    config = recipe("micro_dense_cifar")
    config.update({"model": {"name": "mdnet30_a64"}, "paper": {"source": "Micro-Dense, Table 3"}})
    return config


def sweep():
    for classes, error in ((10, 3.41), (100, 20.85)):
        yield f"mdnet30_a64_c{classes}", {"data.name": f"cifar{classes}", "paper.error": error}
