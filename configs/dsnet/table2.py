r"""DSNet (arXiv 2010.12496), Table 2: errors on CIFAR-100 and CIFAR-10.

aggnets train --config=configs/dsnet/table2.py:dsnet50_w25_c100 \
    --workdir=runs/dsnet50_w25_c100

Printed, for CIFAR-100 and CIFAR-10: ResNets, 26.13 to 21.43 % and 6.65 to 4.82 %; DSNets, 24.12 to
19.95 % and 5.95 to 4.54 %; DS2Nets, 23.72 to 19.00 % and 5.77 to 4.33 %. Widths are in percent of
that on ImageNet.

Cost: 2.0e15 to 3.2e16 MACs.

What differs: Table 3 prints other errors of the networks of 101 layers.
"""

from aggnets_jax.config import recipe

# By network: errors on CIFAR-100 and CIFAR-10.
ERRORS = {
    "resnet50_cifar_w100": (21.43, 4.82),
    "dsnet50_cifar_w100": (19.95, 4.54),
    "ds2net50_cifar_w100": (19.00, 4.33),
    "resnet50_cifar_w25": (26.13, 6.65),
    "dsnet50_cifar_w25": (24.12, 5.95),
    "ds2net50_cifar_w25": (23.72, 5.77),
    "resnet101_cifar_w25": (25.00, 6.00),
    "dsnet101_cifar_w25": (23.94, 5.82),
    "ds2net101_cifar_w25": (23.61, 5.68),
}
REMARKS = {
    ("resnet101_cifar_w25", 100): "25.01 in Table 3",
    ("dsnet101_cifar_w25", 100): "23.63 in Table 3",
    ("ds2net101_cifar_w25", 100): "23.40 in Table 3",
}


def get_config():
    config = recipe("dsnet_cifar")
    config.update({"paper": {"source": "DSNet, Table 2"}})
    return config


def sweep():
    for network, errors in ERRORS.items():
        for classes, error in zip((100, 10), errors, strict=True):
            yield (
                f"{network.replace('_cifar', '')}_c{classes}",
                {
                    "model.name": network,
                    "data.name": f"cifar{classes}",
                    "paper.error": error,
                    "paper.remark": REMARKS.get((network, classes), ""),
                },
            )
