r"""SparseNet (arXiv 1801.05895), Table 4: errors on ImageNet, of a single crop.

aggnets train --config=configs/sparsenet/table4.py:sparsenet201_k32 \
    --workdir=runs/sparsenet201_k32

Printed: SparseNets and DenseNets. The DenseNets have a star, which in Table 2 marks the authors'
own runs; here they could also be quoted. The two ResNets are quoted.

Cost: 6.0e17 to 1.9e18 MACs.

What differs: the printed size of DenseNet-264 is that of stages of (6, 12, 64, 32) layers, as here.
SparseNets have the head that gives their printed sizes, see aggnets_jax/models/sparsenet.py.
"""

from aggnets_jax.config import recipe
from aggnets_jax.models.papers import reproduced


def get_config():
    return recipe("sparsenet_imagenet")


def sweep():
    for network, _, row in reproduced("SparseNet, Table 4", "imagenet2012"):
        if network == "densenet264":
            row["model.args.stage_depths"] = (6, 12, 64, 32)
        yield network, row
