"""DSNet (arXiv 2010.12496), Table 7: errors on ImageNet, of a single crop.

aggnets train --config=configs/dsnet/table7.py:dsnet50 --workdir=runs/dsnet50

Printed: DSNet50, DS2Net50, and Res2Net50 with dense shortcuts. The other rows are quoted from other
papers. Figure 4 has the curves of the first two runs, and Table 9 their errors again.

Cost: 1.6e18 MACs.

Not in the paper: which Res2Net50 it is. Here it has width 26 and scale 4: it has the error that the
paper quotes for Res2Net50, and about the printed size.
"""

from aggnets_jax.config import recipe
from aggnets_jax.models.papers import reproduced


def get_config():
    return recipe("dsnet_imagenet")


def sweep():
    for network, _, row in reproduced("DSNet, Table 7", "imagenet2012"):
        yield network, row
