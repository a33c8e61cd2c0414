"""DSNet (arXiv 2010.12496), Table 7: errors on ImageNet, of a single crop.

aggnets train --config=configs/dsnet/table7.py:dsnet50 --workdir=runs/dsnet50

Printed, top 1 and top 5: DSNet50, 22.49 and 6.29 %; DS2Net50, 22.03 and 5.93 %; Res2Net50 with
dense shortcuts, 21.61 and 5.83 %. The other rows are quoted from other papers. Figure 4 has the
curves of the first two runs, and Table 9 their errors again.

Cost: 1.6e18 MACs.

Not in the paper: which Res2Net50 it is, here that of width 26 and scale 4, which has the error that
is quoted for Res2Net50, and about the size.
"""

from aggnets_jax.config import recipe

# By network: top-1 and top-5 errors.
ERRORS = {
    "dsnet50": (22.49, 6.29),
    "ds2net50": (22.03, 5.93),
    "dsres2net50": (21.61, 5.83),
}


def get_config():
    config = recipe("dsnet_imagenet")
    config.update({"paper": {"source": "DSNet, Table 7"}})
    return config


def sweep():
    for network, (error, error_top5) in ERRORS.items():
        yield (
            network,
            {
                "model.name": network,
                "paper.error": error,
                "paper.error_top5": error_top5,
            },
        )
