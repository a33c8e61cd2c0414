"""DSNet (arXiv 2010.12496), Table 6: errors on CIFAR-100 of large networks.

aggnets train --config=configs/dsnet/table6.py:dswrn28_10 --workdir=runs/dswrn28_10

Printed: DSWRN-28-10, 18.33 %; "DSNeXt-29, 6x64d", 16.85 %; "DS2NeXt-29, 6x64d", 16.39 %. The other
rows are quoted from other papers.

Cost: 1.0e17 to 1.3e17 MACs.

What differs: with both of the latter is printed the size of ResNeXt-29, 8x64d, so that there are
two rows for each, of its name and of its size.
"""

from aggnets_jax.config import recipe

# By network: error, remark.
ROWS = {
    "dswrn28_10": (18.33, ""),
    "dsnext29_6x64d": (16.85, "printed with the size of 8x64d"),
    "dsnext29_8x64d": (16.85, "printed as 6x64d, with this size"),
    "ds2next29_6x64d": (16.39, "printed with the size of 8x64d"),
    "ds2next29_8x64d": (16.39, "printed as 6x64d, with this size"),
}


def get_config():
    config = recipe("dsnet_cifar")
    config.update({"paper": {"source": "DSNet, Table 6"}})
    return config


def sweep():
    for network, (error, remark) in ROWS.items():
        yield (
            network,
            {
                "model.name": network,
                "paper.error": error,
                "paper.remark": remark,
            },
        )
