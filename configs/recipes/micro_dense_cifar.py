"""How Micro-Dense Nets and their baselines are trained on CIFAR (arXiv 2004.08796, Section 4.1).

aggnets train --config=configs/recipes/micro_dense_cifar.py --workdir=runs/micro_dense

SGD with Nesterov momentum 0.9 without dampening and weight decay 1e-4 on batches of 128 images;
half a cosine from 0.1 to 0, times a linear warm-up (eqs. 15 and 16); AutoAugment.

Not in the paper: 300 epochs, as for PyramidNets, and 5 of them to warm up; shifts by up to 4 pixels
and mirroring before the policy, as in the paper on AutoAugment. The AutoAugment paper also blanks
squares of 16 pixels (--config.data.cutout=16), which this paper does not mention.
"""

import ml_collections


def get_config():
    return ml_collections.ConfigDict(
        {
            "total_epochs": 300,
            "eval_every_steps": 391,  # an epoch
            "checkpoint_every_steps": 391,
            "batch_size": 128,
            "lr": 0.1,
            "schedule": "warmup_cosine",
            "schedule_args": {"warmup_epochs": 5},
            "weight_decay": 1e-4,
            "model": {"name": "mdnet60_a115"},
            "data": {"name": "cifar10", "policy": "autoaugment_cifar"},
        }
    )
