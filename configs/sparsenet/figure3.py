r"""SparseNet (arXiv 1801.05895), Figure 3: weights of the links in two trained networks.

aggnets train --config=configs/sparsenet/figure3.py:sparsenet40_k12 \
    --workdir=runs/sparsenet40_k12

Drawn: mean absolute weights between layers, of a DenseNet and a SparseNet of 40 layers and growth
rate 12; no errors. The run trains a network; aggnets analyse weights makes the drawing from its
checkpoint.

Cost: 3.5e15 to 1.3e16 MACs.

Not in the paper: the data set. It is augmented CIFAR-10 in the figure of DenseNet that is followed.
"""

from aggnets_jax.config import recipe


def get_config():
    config = recipe("sparsenet_cifar")
    config.update({"paper": {"source": "SparseNet, Figure 3", "remark": "no errors are printed"}})
    return config


def sweep():
    for network in ("densenet40_k12", "sparsenet40_k12"):
        yield network, {"model.name": network}
