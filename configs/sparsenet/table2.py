r"""SparseNet (arXiv 1801.05895), Table 2: errors on CIFAR-10 and CIFAR-100, augmented.

aggnets train --config=configs/sparsenet/table2.py:sparsenet_bc100_k24_c10 \
    --workdir=runs/sparsenet_bc100_k24_c10

Printed: SparseNets, and the DenseNets that are marked as the authors' own. The marked ResNet of
1001 layers is a row of table3.py; the other rows are quoted from other papers.

Cost: 1.3e16 to 4.2e17 MACs.

What differs: the row "SparseNet (k=12), 40 layers, 0.8M" has the size of k = 24, which the authors'
code lists instead. DenseNets whose growth rate differs by stage have the stems, 24 or 48 channels
wide, that give the printed sizes.
"""

from aggnets_jax.config import recipe
from aggnets_jax.models.papers import reproduced

STEM_FEATURES = {
    "densenet100_k16_32_64": 24,
    "densenet_bc100_k16_32_64": 48,
    "densenet_bc100_k32_64_128": 24,
}


def get_config():
    return recipe("sparsenet_cifar")


def sweep():
    for network, data, row in reproduced("SparseNet, Table 2", "cifar10", "cifar100"):
        if network in STEM_FEATURES:
            row["model.args.stem_features"] = STEM_FEATURES[network]
        yield f"{network}_{data.replace('cifar', 'c')}", row
