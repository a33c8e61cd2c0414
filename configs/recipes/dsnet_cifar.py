"""How DSNets, DS2Nets and their ResNets are trained on CIFAR (arXiv 2010.12496, Section 4.1).

aggnets train --config=configs/recipes/dsnet_cifar.py --workdir=runs/dsnet

64,000 iterations of SGD with weight decay 5e-4; the learning rate is 0.1, divided by 10 after
32,000 and 48,000; images are shifted by up to 4 pixels and mirrored.

Not in the paper: batches of 128 images and momentum 0.9 without Nesterov's, as for ResNets on
CIFAR, which it follows; and that norms and the weights of shortcuts decay, too.
"""

import ml_collections


def get_config():
    return ml_collections.ConfigDict(
        {
            "total_steps": 64_000,
            "eval_every_steps": 391,  # an epoch
            "checkpoint_every_steps": 391,
            "batch_size": 128,
            "lr": 0.1,
            "schedule": "step",
            "schedule_args": {"boundaries": (0.5, 0.75)},
            "nesterov": False,
            "weight_decay": 5e-4,
            "model": {"name": "dsnet50_cifar_w25"},
            "data": {"name": "cifar100"},
        }
    )
