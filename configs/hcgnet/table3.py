r"""HCGNet (arXiv 1908.09699), Table 3: errors on ImageNet, of a single crop.

aggnets train --config=configs/hcgnet/table3.py:hcgnet_b --workdir=runs/hcgnet_b

Printed: top 1 and top 5, 21.5 and 5.8 % for HCGNet-B, 19.5 and 4.8 % for HCGNet-C. The other rows
are quoted from other papers.

HCGNet-B of this table is the network that is dissected in Figure 4, attacked in Figure 5 and the
backbone of Table 4, which are no trainings of classifiers and have no configs.

Cost: 4.8e18 to 1.7e19 MACs.

Not in the paper: see configs/recipes/hcgnet_imagenet.py; whether these are the errors at the end of
training or the lowest.
"""

from aggnets_jax.config import recipe

# By network: top-1 and top-5 errors.
ERRORS = {
    "hcgnet_b": (21.5, 5.8),
    "hcgnet_c": (19.5, 4.8),
}
REMARKS = {"hcgnet_b": "the authors' code has 5.9 % for the top-5 error"}


def get_config():
    config = recipe("hcgnet_imagenet")
    config.update({"paper": {"source": "HCGNet, Table 3"}})
    return config


def sweep():
    for network, (error, error_top5) in ERRORS.items():
        yield (
            network,
            {
                "model.name": network,
                "paper.error": error,
                "paper.error_top5": error_top5,
                "paper.remark": REMARKS.get(network, ""),
            },
        )
