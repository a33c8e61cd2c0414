r"""SparseNet (arXiv 1801.05895), Table 3: errors on CIFAR-100, augmented, at great depth.

aggnets train --config=configs/sparsenet/table3.py:sparsenet_bc400_k12 \
    --workdir=runs/sparsenet_bc400_k12

Printed: pre-activation ResNets of 56 to 2000 layers, 27.00 to 21.42 %, and the same under sparse
aggregation, 27.70 to 21.01 %; DenseNet-BC of growth rate 4, 32.94 and 28.50 %, and SparseNet-BC of
growth rate 12, 27.99 to 22.10 %. DenseNets of 40 and 100 layers are rows of table2.py; that of 250
layers is quoted from its paper, and three others could not be trained.

Cost: 3.9e15 to 1.3e17 MACs.
"""

from aggnets_jax.config import recipe

ERRORS = {
    "preact_resnet56": 27.00,
    "preact_resnet110": 24.70,
    "preact_resnet200": 23.10,
    "preact_resnet1001": 21.42,
    "preact_resnet2000": 22.76,
    "sparsenet_sum56": 27.70,
    "sparsenet_sum110": 26.10,
    "sparsenet_sum200": 25.77,
    "sparsenet_sum1001": 22.10,
    "sparsenet_sum2000": 21.01,
    "densenet_bc400_k4": 32.94,
    "densenet_bc1001_k4": 28.50,
    "sparsenet_bc100_k12": 27.99,
    "sparsenet_bc400_k12": 24.41,
    "sparsenet_bc1001_k12": 22.10,
}
REMARKS = {
    "densenet_bc400_k4": "1.16M parameters, printed as 1.10M",
    "sparsenet_bc100_k12": "0.37M parameters, printed as 0.40M",
}


def get_config():
    config = recipe("sparsenet_cifar")
    config.update({"data": {"name": "cifar100"}, "paper": {"source": "SparseNet, Table 3"}})
    return config


def sweep():
    for network, error in ERRORS.items():
        yield (
            network,
            {
                "model.name": network,
                "paper.error": error,
                "paper.remark": REMARKS.get(network, ""),
            },
        )
