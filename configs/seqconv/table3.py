r"""SeqConv (arXiv 1811.10798), Table 3: errors on CIFAR-10 and CIFAR-100, augmented.

aggnets train --config=configs/seqconv/table3.py:seqresnet_b_k16_r7_n1_c10 \
    --workdir=runs/seqresnet_b_k16_r7_n1_c10

Printed: SeqResNets at the end of training; the other rows are quoted from other papers. Figure 5
draws weights of the trained seqresnet_k8_r4_n1_c10.

Cost: 9.2e15 to 7.8e16 MACs.

Not in the paper: see configs/recipes/seqconv_cifar.py.
"""

from aggnets_jax.config import recipe
from aggnets_jax.models.papers import reproduced


def get_config():
    return recipe("seqconv_cifar")


def sweep():
    for network, data, row in reproduced("SeqConv, Table 3", "cifar10", "cifar100"):
        yield f"{network}_{data.replace('cifar', 'c')}", row
