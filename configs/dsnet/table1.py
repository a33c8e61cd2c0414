"""DSNet (arXiv 2010.12496), Table 1: what dense shortcuts consist of, by errors on CIFAR-100.

aggnets train --config=configs/dsnet/table1.py:dsnet50_a --workdir=runs/dsnet50_a

Printed, all at a quarter of the width: dense shortcuts that are neither normalised nor weighted,
26.33 %; DSNets with shortcuts from what blocks compute (variant a), 25.23 %, with layer, batch,
instance or no normalisation, 24.43, 24.90, 28.11 and 26.26 %, and without weights, 25.85 %. The
rows of ResNet50, DSNet50 and DS2Net50 are in table2.py.

Cost: 2.0e15 MACs.

What differs: the row of layer normalisation is printed with a width of 0.2.
"""

from aggnets_jax.config import recipe

ERRORS = {
    "resnet50_dense_cifar_w25": 26.33,
    "dsnet50_cifar_w25_a": 25.23,
    "dsnet50_cifar_w25_ln": 24.43,
    "dsnet50_cifar_w25_bn": 24.90,
    "dsnet50_cifar_w25_in": 28.11,
    "dsnet50_cifar_w25_nonorm": 26.26,
    "dsnet50_cifar_w25_noweight": 25.85,
}
REMARKS = {"dsnet50_cifar_w25_ln": "printed with a width of 0.2"}


def get_config():
    config = recipe("dsnet_cifar")
    config.update({"paper": {"source": "DSNet, Table 1"}})
    return config


def sweep():
    for network, error in ERRORS.items():
        yield (
            network.replace("_cifar_w25", ""),
            {
                "model.name": network,
                "paper.error": error,
                "paper.remark": REMARKS.get(network, ""),
            },
        )
