r"""SeqConv (arXiv 1811.10798), Table 3: errors on CIFAR-10 and CIFAR-100, augmented.

aggnets train --config=configs/seqconv/table3.py:seqresnet_b_k16_r7_n1_c10 \
    --workdir=runs/seqresnet_b_k16_r7_n1_c10

Printed: 4.78 to 3.72 % (CIFAR-10) and 22.65 to 18.51 % (CIFAR-100) for SeqResNets, at the end of
training; the other rows are quoted from other papers. Figure 5 draws weights of the trained
seqresnet_k8_r4_n1_c10.

Cost: 9.2e15 to 7.8e16 MACs.

Not in the paper: see configs/recipes/seqconv_cifar.py.
"""

from aggnets_jax.config import recipe

# By network: errors on CIFAR-10 and CIFAR-100.
ERRORS = {
    "seqresnet_k8_r4_n1": (4.78, 22.65),
    "seqresnet_k16_r10_n1": (3.97, 19.72),
    "seqresnet_b_k16_r7_n1": (4.3, 20.76),
    "seqresnet_b_k32_r12_n3": (3.72, 18.51),
}


def get_config():
    config = recipe("seqconv_cifar")
    config.update({"paper": {"source": "SeqConv, Table 3"}})
    return config


def sweep():
    for network, errors in ERRORS.items():
        for classes, error in zip((10, 100), errors, strict=True):
            yield (
                f"{network}_c{classes}",
                {
                    "model.name": network,
                    "data.name": f"cifar{classes}",
                    "paper.error": error,
                },
            )
