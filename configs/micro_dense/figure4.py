"""Micro-Dense Nets (arXiv 2004.08796), Figure 4: layers in a block, and whether they widen.

aggnets train --config=configs/micro_dense/figure4.py:n2 --workdir=runs/micro_dense_n2

Drawn: errors on CIFAR-10 at 0.7M parameters and the same depth, of 1 to 5 layers (left), and of 3
layers that are all as wide as the first ("fixed") or not (middle); no numbers. Three widening
layers, the row "n3", are also the network of Table 3. The curves on the right are those of the runs
of table6.py. One figure of several runs:
aggnets report runs/micro_dense_n1 runs/micro_dense_n2 runs/micro_dense_n3

Cost: 5.6e15 to 7.2e15 MACs.

Not in the paper: what the depth counts. The rows "n1", ... have about as many convolutions, the
rows "n1_blocks", ... 30 blocks, see aggnets_jax/models/micro_dense.py. Also not in the paper: which
numbers of layers there are, and how the size is kept equal.
"""

from aggnets_jax.config import recipe

NETWORKS = {
    "n1": "mdnet60_a64_n1",
    "n2": "mdnet39_a64_n2",
    "n3": "mdnet30_a64",
    "n4": "mdnet24_a64_n4",
    "n5": "mdnet21_a64_n5",
    "fixed": "mdnet30_a64_fixed",
    "n1_blocks": "mdnet30_a64_n1",
    "n2_blocks": "mdnet30_a64_n2",
    "n4_blocks": "mdnet30_a64_n4",
    "n5_blocks": "mdnet30_a64_n5",
}


def get_config():
    config = recipe("micro_dense_cifar")
    config.update({"paper": {"source": "Micro-Dense, Figure 4", "remark": "drawn, no numbers"}})
    return config


def sweep():
    for row, network in NETWORKS.items():
        yield row, {"model.name": network}
