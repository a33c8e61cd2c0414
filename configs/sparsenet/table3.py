r"""SparseNet (arXiv 1801.05895), Table 3: errors on CIFAR-100, augmented, at great depth.

aggnets train --config=configs/sparsenet/table3.py:sparsenet_bc400_k12 \
    --workdir=runs/sparsenet_bc400_k12

Printed: pre-activation ResNets of 56 to 2000 layers, and the same under sparse aggregation;
DenseNet-BC of growth rate 4, and SparseNet-BC of growth rate 12. DenseNets of 40 and 100 layers are
rows of table2.py; the network of 250 layers is quoted from its paper, and three others could not be
trained.

Cost: 3.9e15 to 1.3e17 MACs.
"""

from aggnets_jax.config import recipe
from aggnets_jax.models.papers import reproduced


def get_config():
    return recipe("sparsenet_cifar")


def sweep():
    for network, _, row in reproduced("SparseNet, Table 3", "cifar100"):
        yield network, row
