r"""HCGNet (arXiv 1908.09699), Table 2: errors on CIFAR-10 and CIFAR-100.

aggnets train --config=configs/hcgnet/table2.py:hcgnet_a1_c10 \
    --workdir=runs/hcgnet_a1_c10

Printed: HCGNet-A1, A2 and A3. The other rows are quoted from other papers.

Cost: 2.9e16 to 3.7e17 MACs.

Not in the paper: see configs/recipes/hcgnet_cifar.py; whether these are the errors at the end of
training or the lowest.
"""

from aggnets_jax.config import recipe
from aggnets_jax.models.papers import reproduced

ONE_RUN = {"total_epochs": 1270, "schedule_args.repeats": 1, "strength_args.repeats": 1}


def get_config():
    return recipe("hcgnet_cifar")


def sweep():
    for network, data, row in reproduced("HCGNet, Table 2", "cifar10", "cifar100"):
        once = ONE_RUN if network == "hcgnet_a1" else {}
        yield f"{network}_{data.replace('cifar', 'c')}", row | once
