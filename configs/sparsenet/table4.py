r"""SparseNet (arXiv 1801.05895), Table 4: errors on ImageNet, of a single crop.

aggnets train --config=configs/sparsenet/table4.py:sparsenet201_k32 \
    --workdir=runs/sparsenet201_k32

Printed: SparseNets, 25.6 to 22.1 %, and DenseNets, 25.0 to 22.2 %. Those have a star, which in
Table 2 marks the authors' own runs; here they might as well be quoted. The two ResNets are.

Cost: 6.0e17 to 1.9e18 MACs.

What differs: the printed size of DenseNet-264 is that of stages of (6, 12, 64, 32) layers, as here.
SparseNets have the head that gives their printed sizes, see aggnets_jax/models/sparsenet.py.
"""

from aggnets_jax.config import recipe

ERRORS = {
    "sparsenet121_k32": 25.6,
    "sparsenet169_k32": 24.2,
    "sparsenet201_k32": 23.1,
    "sparsenet201_k48": 22.1,
    "densenet121": 25.0,
    "densenet169": 23.6,
    "densenet201": 22.6,
    "densenet264": 22.2,
}


def get_config():
    config = recipe("sparsenet_imagenet")
    config.update({"paper": {"source": "SparseNet, Table 4"}})
    return config


def sweep():
    for network, error in ERRORS.items():
        row = {"model.name": network, "paper.error": error}
        if network == "densenet264":
            row["model.args.stage_depths"] = (6, 12, 64, 32)
        yield network, row
