"""DSNet (arXiv 2010.12496), Table 1: what dense shortcuts consist of, by errors on CIFAR-100.

aggnets train --config=configs/dsnet/table1.py:dsnet50_a --workdir=runs/dsnet50_a

Printed, all at a quarter of the width: dense shortcuts that are neither normalised nor weighted,
and DSNets with shortcuts from what blocks compute (variant a), with layer, batch, instance or no
normalisation, and without weights. The rows of ResNet50, DSNet50 and DS2Net50 are in table2.py.

Cost: 2.0e15 MACs.

What differs: the row of layer normalisation is printed with a width of 0.2.
"""

from aggnets_jax.config import recipe
from aggnets_jax.models.papers import reproduced


def get_config():
    return recipe("dsnet_cifar")


def sweep():
    for network, _, row in reproduced("DSNet, Table 1", "cifar100"):
        yield network.replace("_cifar_w25", ""), row
