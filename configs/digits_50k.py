"""Networks of about 50,000 parameters on the handwritten digits, all images or ten of each class.

A network of each of the five papers' families beside a ResNet and a DenseNet, with the same recipe:

    aggnets train --config=configs/digits_50k.py:hcgnet --workdir=runs/hcgnet

Rows that end in `_10` train on 10 images of each class. Results: results/digits_50k.md.

Cost: 2.1e10 to 1.5e11 MACs.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from aggnets_jax.config import recipe

NETWORKS = {
    "resnet": ("resnet_cifar", {"width": 25, "stage_depths": (5, 1)}),
    "densenet": ("densenet_bc22_k10", {}),
    "sparsenet": ("sparsenet_bc34_k8", {}),
    "hcgnet": ("hcgnet_n2_2_2_k8_16_20", {}),
    "dsnet": ("dsnet_cifar", {"width": 25, "stage_depths": (5, 1)}),
    "seqresnet": ("seqresnet_b", {"group_width": 8, "widening": 1, "blocks": (1, 1, 2)}),
    "micro_dense": ("mdnet12_a16", {}),
}


def get_config() -> ml_collections.ConfigDict:
    return recipe("digits")


def sweep() -> Iterator[tuple[str, dict[str, Any]]]:
    for row, (name, arguments) in NETWORKS.items():
        network = {"model.name": name, "model.args": arguments}
        yield row, network
        few = {"data.train_split": "train_10_per_class", "total_steps": 200}
        yield f"{row}_10", {**network, **few}
