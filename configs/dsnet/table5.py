"""DSNet (arXiv 2010.12496), Table 5: errors on CIFAR-100 with ResNeXt as the backbone, by width.

aggnets train --config=configs/dsnet/table5.py:dsnext50_w25 --workdir=runs/dsnext50_w25

Printed, at a quarter, half and the whole of the width: ResNeXt50, 23.86, 21.16 and 20.17 %;
DSNeXt50, 22.98, 19.95 and 18.58 %; DS2NeXt50, 22.58, 19.51 and 18.24 %.

Cost: 2.1e15 to 3.3e16 MACs.

Not in the paper: the cardinality, here that of ResNeXt-50, 32x4d, whose groups narrow with the
network.
"""

from aggnets_jax.config import recipe

# By network: errors at 25, 50 and 100 % of the width.
ERRORS = {
    "resnext50": (23.86, 21.16, 20.17),
    "dsnext50": (22.98, 19.95, 18.58),
    "ds2next50": (22.58, 19.51, 18.24),
}


def get_config():
    config = recipe("dsnet_cifar")
    config.update({"paper": {"source": "DSNet, Table 5"}})
    return config


def sweep():
    for network, errors in ERRORS.items():
        for width, error in zip((25, 50, 100), errors, strict=True):
            yield (
                f"{network}_w{width}",
                {"model.name": f"{network}_cifar_w{width}", "paper.error": error},
            )
