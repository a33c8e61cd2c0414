r"""Micro-Dense Nets (arXiv 2004.08796), Table 5: errors on ImageNet.

aggnets train --config=configs/micro_dense/table5.py:micro_dense_efficientnet_b0 \
    --workdir=runs/micro_dense_efficientnet_b0

Printed, as accuracies: Micro-Dense-EfficientNet and the authors' own EfficientNet-B0; the other
rows are quoted.

Cost: 5.2e17 to 5.4e17 MACs.
"""

from aggnets_jax.config import recipe
from aggnets_jax.models.papers import reproduced


def get_config():
    return recipe("micro_dense_imagenet")


def sweep():
    for network, _, row in reproduced("Micro-Dense, Table 5", "imagenet2012"):
        yield network, row
