"""DSNet (arXiv 2010.12496), Table 5: errors on CIFAR-100 with ResNeXt as the backbone, by width.

aggnets train --config=configs/dsnet/table5.py:dsnext50_w25 --workdir=runs/dsnext50_w25

Printed, at a quarter, half and the whole of the width: ResNeXt50, DSNeXt50 and DS2NeXt50.

Cost: 2.1e15 to 3.3e16 MACs.

Not in the paper: the cardinality, here that of ResNeXt-50, 32x4d, whose groups narrow with the
network.
"""

from aggnets_jax.config import recipe
from aggnets_jax.models.papers import reproduced


def get_config():
    return recipe("dsnet_cifar")


def sweep():
    for network, _, row in reproduced("DSNet, Table 5", "cifar100"):
        yield network.replace("_cifar", ""), row
