r"""Micro-Dense Nets (arXiv 2004.08796), Table 5: errors on ImageNet.

aggnets train --config=configs/micro_dense/table5.py:micro_dense_efficientnet_b0 \
    --workdir=runs/micro_dense_efficientnet_b0

Printed: accuracies, top 1 and top 5, of 76.8 and 93.2 % for Micro-Dense-EfficientNet and of 76.5
and 93.0 % for the authors' own EfficientNet-B0; the other rows are quoted.

Cost: 5.2e17 to 5.4e17 MACs.
"""

from aggnets_jax.config import recipe

# By network: top-1 and top-5 errors.
ERRORS = {
    "efficientnet_b0": (23.5, 7.0),
    "micro_dense_efficientnet_b0": (23.2, 6.8),
}


def get_config():
    config = recipe("micro_dense_imagenet")
    config.update({"paper": {"source": "Micro-Dense, Table 5"}})
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
