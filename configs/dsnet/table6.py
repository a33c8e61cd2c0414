"""DSNet (arXiv 2010.12496), Table 6: errors on CIFAR-100 of large networks.

aggnets train --config=configs/dsnet/table6.py:dswrn28_10 --workdir=runs/dswrn28_10

Printed: DSWRN-28-10, "DSNeXt-29, 6x64d" and "DS2NeXt-29, 6x64d". The other rows are quoted from
other papers.

Cost: 1.0e17 to 1.3e17 MACs.

What differs: the paper prints the size of ResNeXt-29, 8x64d with both of the latter. Each therefore
has two rows: a network with its name, and a network with its size.
"""

from aggnets_jax.config import recipe
from aggnets_jax.models.papers import reproduced


def get_config():
    return recipe("dsnet_cifar")


def sweep():
    for network, _, row in reproduced("DSNet, Table 6", "cifar100"):
        yield network, row
