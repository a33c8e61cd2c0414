r"""SeqConv (arXiv 1811.10798), Table 5: width, depth, groups and windows, errors on CIFAR-10.

aggnets train --config=configs/seqconv/table5.py:s2 --workdir=runs/seqresnet_s2

Printed: 4.78 % for S1, which is SeqResNet(k=8, r=4, N=1) of Table 3; 4.90 % without windows (S2),
4.99 % with groups of 16 channels (S3), 5.15 % with those, narrower and deeper (S4).

Cost: 1.0e16 to 1.3e16 MACs.

Not in the paper: see configs/recipes/seqconv_cifar.py.
"""

from aggnets_jax.config import recipe

# By setting: network and error.
SETTINGS = {
    "s1": ("seqresnet_k8_r4_n1", 4.78),
    "s2": ("seqresnet_k8_r3_n121_full", 4.90),
    "s3": ("seqresnet_k16_r4_n1", 4.99),
    "s4": ("seqresnet_k16_r3_n122", 5.15),
}


def get_config():
    config = recipe("seqconv_cifar")
    config.update({"paper": {"source": "SeqConv, Table 5"}})
    return config


def sweep():
    for setting, (network, error) in SETTINGS.items():
        yield setting, {"model.name": network, "paper.error": error}
