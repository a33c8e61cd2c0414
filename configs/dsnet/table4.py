"""DSNet (arXiv 2010.12496), Table 4: errors on CIFAR-100, by width.

aggnets train --config=configs/dsnet/table4.py:dsnet50_w50 --workdir=runs/dsnet50_w50

Printed: ResNets, DSNets and DS2Nets of 50 layers, at a quarter of the width with 3x3 convolutions
twice as wide ("WRN"), and at half of the width. The rows at a quarter and at the whole of the width
are in table2.py.

Cost: 5.7e15 to 8.0e15 MACs.
"""

from aggnets_jax.config import recipe
from aggnets_jax.models.papers import reproduced


def get_config():
    return recipe("dsnet_cifar")


def sweep():
    for network, _, row in reproduced("DSNet, Table 4", "cifar100"):
        yield network.replace("_cifar", ""), row
