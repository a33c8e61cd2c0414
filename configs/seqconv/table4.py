r"""SeqConv (arXiv 1811.10798), Table 4: errors on ImageNet, of a single crop.

aggnets train --config=configs/seqconv/table4.py:seqresnet_b42_100_epochs \
    --workdir=runs/seqresnet_b42_100_epochs

Printed: top 1, 23.67 to 21.92 %, and top 5, 6.78 to 5.82 %, the best of the first 90 epochs;
23.35 to 21.50 and 6.68 to 5.73 % (with a star), the best of all 100. ResNets, ResNeXts and
DenseNets are quoted from other papers.

Cost: 1.0e18 to 2.2e18 MACs.

The rows of 90 epochs are the beginnings of those of 100, to be run alone. What is printed is the
best evaluation of summary.json, one evaluation an epoch.
"""

from aggnets_jax.config import recipe

# By network: top-1 and top-5 errors of 90 epochs, and of 100.
ERRORS = {
    "seqresnet_b22": ((23.67, 6.78), (23.35, 6.68)),
    "seqresnet_b42": ((22.06, 5.98), (21.75, 5.89)),
    "seqresnext24": ((21.92, 5.82), (21.50, 5.73)),
}


def get_config():
    config = recipe("seqconv_imagenet")
    config.update({"paper": {"source": "SeqConv, Table 4", "remark": "best evaluation"}})
    return config


def sweep():
    for network, by_epochs in ERRORS.items():
        for epochs, (error, error_top5) in zip((90, 100), by_epochs, strict=True):
            yield (
                f"{network}_{epochs}_epochs",
                {
                    "model.name": network,
                    "total_epochs": epochs,
                    "schedule_args.boundaries": [n / epochs for n in (30, 60, 90) if n < epochs],
                    "paper.error": error,
                    "paper.error_top5": error_top5,
                },
            )
