"""Micro-Dense Nets (arXiv 2004.08796), Table 6: one network with three kinds of blocks.

aggnets train --config=configs/micro_dense/table6.py:micro_dense_c10 \
    --workdir=runs/micro_dense_c10

Printed: averages of a number of runs that is not given, for ResNeXt, Res2Net and Micro-Dense Net,
all with 1.8M parameters and 0.26G FLOPs. The right of Figure 4 has the curves of these runs:
aggnets report runs/resnext_c10 runs/res2net_c10 runs/micro_dense_c10

Cost: 1.2e16 MACs.

Not in the paper: depth, cardinality, scales and compression, see
aggnets_jax/models/micro_dense_resnext.py.
"""

from aggnets_jax.config import recipe
from aggnets_jax.models.papers import reproduced

ROWS = {
    "resnext164_2x42d_w25": "resnext",
    "res2next164_4x8d_4s_w25": "res2net",
    "micro_dense_resnext164_w25": "micro_dense",
}


def get_config():
    return recipe("micro_dense_cifar")


def sweep():
    for network, data, row in reproduced("Micro-Dense, Table 6", "cifar10", "cifar100"):
        yield f"{ROWS[network]}_{data.replace('cifar', 'c')}", row
