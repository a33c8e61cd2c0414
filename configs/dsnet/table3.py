"""DSNet (arXiv 2010.12496), Table 3: errors on CIFAR-100, by depth.

aggnets train --config=configs/dsnet/table3.py:dsnet77 --workdir=runs/dsnet77

Printed, all at a quarter of the width, for 26, 38 and 77 layers: ResNets, 27.74, 27.26 and 25.32 %;
DSNets, 26.80, 25.59 and 23.95 %; DS2Nets, 26.30, 25.30 and 23.55 %. The rows of 50 and 101 layers
are in table2.py, where the errors of 101 layers differ.

Cost: 1.1e15 to 3.0e15 MACs.
"""

from aggnets_jax.config import recipe

ERRORS = {
    "resnet26": 27.74,
    "dsnet26": 26.80,
    "ds2net26": 26.30,
    "resnet38": 27.26,
    "dsnet38": 25.59,
    "ds2net38": 25.30,
    "resnet77": 25.32,
    "dsnet77": 23.95,
    "ds2net77": 23.55,
}


def get_config():
    config = recipe("dsnet_cifar")
    config.update({"paper": {"source": "DSNet, Table 3"}})
    return config


def sweep():
    for row, error in ERRORS.items():
        yield row, {"model.name": f"{row}_cifar_w25", "paper.error": error}
