"""DSNet (arXiv 2010.12496), Figure 4: the curve of ResNet50 on ImageNet.

aggnets train --config=configs/dsnet/figure4.py --workdir=runs/resnet50

Drawn: errors in training and validation of ResNet50 beside those of DSNet50 and DS2Net50, which are
rows of table7.py; no numbers. The error of ResNet50 in Table 7 is quoted from another paper. The
figure: aggnets report runs/resnet50 runs/dsnet50 runs/ds2net50

Cost: 1.6e18 MACs.
"""

from aggnets_jax.config import recipe


def get_config():
    config = recipe("dsnet_imagenet")
    config.update(
        {
            "model": {"name": "resnet50"},
            "paper": {"source": "DSNet, Figure 4", "remark": "drawn, no numbers"},
        }
    )
    return config
