"""DSNet (arXiv 2010.12496), Table 4: errors on CIFAR-100, by width.

aggnets train --config=configs/dsnet/table4.py:dsnet50_w50 --workdir=runs/dsnet50_w50

Printed, all of 50 layers: at a quarter of the width with 3x3 convolutions twice as wide ("WRN"),
ResNet 23.51, DSNet 22.00 and DS2Net 21.58 %; at half of the width, 23.38, 21.59 and 21.02 %. The
rows at a quarter and at the whole of the width are in table2.py.

Cost: 5.7e15 to 8.0e15 MACs.
"""

from aggnets_jax.config import recipe

ERRORS = {
    "wide_resnet50_2_cifar_w25": 23.51,
    "wide_dsnet50_2_cifar_w25": 22.00,
    "wide_ds2net50_2_cifar_w25": 21.58,
    "resnet50_cifar_w50": 23.38,
    "dsnet50_cifar_w50": 21.59,
    "ds2net50_cifar_w50": 21.02,
}


def get_config():
    config = recipe("dsnet_cifar")
    config.update({"paper": {"source": "DSNet, Table 4"}})
    return config


def sweep():
    for network, error in ERRORS.items():
        yield network.replace("_cifar", ""), {"model.name": network, "paper.error": error}
