r"""SeqConv (arXiv 1811.10798), Table 5: width, depth, groups and windows, errors on CIFAR-10.

aggnets train --config=configs/seqconv/table5.py:s2 --workdir=runs/seqresnet_s2

Printed: S1, which is SeqResNet(k=8, r=4, N=1) of Table 3; without windows (S2); with groups of 16
channels (S3); with such groups, narrower and deeper (S4).

Cost: 1.0e16 to 1.3e16 MACs.

Not in the paper: see configs/recipes/seqconv_cifar.py.
"""

from aggnets_jax.config import recipe
from aggnets_jax.models.papers import reproduced


def get_config():
    return recipe("seqconv_cifar")


def sweep():
    for number, (_, _, row) in enumerate(reproduced("SeqConv, Table 5", "cifar10"), start=1):
        yield f"s{number}", row
