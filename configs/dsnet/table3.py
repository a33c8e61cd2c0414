"""DSNet (arXiv 2010.12496), Table 3: errors on CIFAR-100, by depth.

aggnets train --config=configs/dsnet/table3.py:dsnet77 --workdir=runs/dsnet77

Printed, all at a quarter of the width: ResNets, DSNets and DS2Nets of 26, 38 and 77 layers. The
rows of 50 and 101 layers are in table2.py, where the errors of 101 layers differ.

Cost: 1.1e15 to 3.0e15 MACs.
"""

from aggnets_jax.config import recipe
from aggnets_jax.models.papers import reproduced


def get_config():
    return recipe("dsnet_cifar")


def sweep():
    for network, _, row in reproduced("DSNet, Table 3", "cifar100"):
        yield network.replace("_cifar_w25", ""), row
