r"""HCGNet (arXiv 1908.09699), Table 3: errors on ImageNet, of a single crop.

aggnets train --config=configs/hcgnet/table3.py:hcgnet_b --workdir=runs/hcgnet_b

Printed: HCGNet-B and HCGNet-C. The other rows are quoted from other papers.

HCGNet-B is also dissected in Figure 4 (aggnets analyse dissection), attacked in Figure 5 (aggnets
analyse robustness), and the backbone of table4.py.

Cost: 4.8e18 to 1.7e19 MACs.

Not in the paper: see configs/recipes/hcgnet_imagenet.py; whether these are the errors at the end of
training or the lowest.
"""

from aggnets_jax.config import recipe
from aggnets_jax.models.papers import reproduced


def get_config():
    return recipe("hcgnet_imagenet")


def sweep():
    for network, _, row in reproduced("HCGNet, Table 3", "imagenet2012"):
        yield network, row
