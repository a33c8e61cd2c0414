r"""DSNet (arXiv 2010.12496), Table 2: errors on CIFAR-100 and CIFAR-10.

aggnets train --config=configs/dsnet/table2.py:dsnet50_w25_c100 \
    --workdir=runs/dsnet50_w25_c100

Printed: ResNets, DSNets and DS2Nets of 50 layers at the whole and a quarter of the width, and of
101 layers at a quarter. Widths are in percent of the width on ImageNet.

Cost: 2.0e15 to 3.2e16 MACs.

What differs: Table 3 prints other errors of the networks of 101 layers.
"""

from aggnets_jax.config import recipe
from aggnets_jax.models.papers import reproduced


def get_config():
    return recipe("dsnet_cifar")


def sweep():
    for network, data, row in reproduced("DSNet, Table 2", "cifar100", "cifar10"):
        yield f"{network.replace('_cifar', '')}_{data.replace('cifar', 'c')}", row
