r"""SeqConv (arXiv 1811.10798), Table 4: errors on ImageNet, of a single crop.

aggnets train --config=configs/seqconv/table4.py:seqresnet_b42_100_epochs \
    --workdir=runs/seqresnet_b42_100_epochs

Printed: SeqResNet-B22, SeqResNet-B42 and SeqResNeXt-24, the best of the first 90 epochs and, with a
star, of all 100. ResNets, ResNeXts and DenseNets are quoted from other papers.

Cost: 1.0e18 to 2.2e18 MACs.

A row of 90 epochs is the beginning of the row of 100 epochs, as a run of its own. The printed error
is the best of one evaluation per epoch: `best` in summary.json.
"""

from aggnets_jax.config import recipe
from aggnets_jax.models.papers import reproduced


def get_config():
    return recipe("seqconv_imagenet")


def sweep():
    for epochs, source in ((90, "SeqConv, Table 4"), (100, "SeqConv, Table 4, *")):
        boundaries = [n / epochs for n in (30, 60, 90) if n < epochs]
        length = {"total_epochs": epochs, "schedule_args.boundaries": boundaries}
        for network, _, row in reproduced(source, "imagenet2012"):
            yield f"{network}_{epochs}_epochs", row | length
