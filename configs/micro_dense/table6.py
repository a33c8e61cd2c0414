r"""Micro-Dense Nets (arXiv 2004.08796), Table 6: one network with three kinds of blocks.

aggnets train --config=configs/micro_dense/table6.py:micro_dense_c10 \
    --workdir=runs/micro_dense_c10

Printed: averages of a number of runs that is not given, for ResNeXt, Res2Net and Micro-Dense Net,
all with 1.8M parameters and 0.26G FLOPs. The right of Figure 4 has the curves of these runs.

Cost: 1.2e16 MACs.

Not in the paper: the backbone, the cardinality and the scales, see micro_dense.py and
micro_dense_baselines.py in aggnets_jax/models.
"""

from aggnets_jax.config import recipe
from aggnets_jax.models.papers import reproduced

ROWS = {
    "resnext54_16x2d_w64_128_256": "resnext",
    "res2net54_2w_16s_w64_128_256": "res2net",
    "mdnet54_w64_128_256": "micro_dense",
}


def get_config():
    return recipe("micro_dense_cifar")


def sweep():
    for network, data, row in reproduced("Micro-Dense, Table 6", "cifar10", "cifar100"):
        yield f"{ROWS[network]}_{data.replace('cifar', 'c')}", row
