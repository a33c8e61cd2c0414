"""How Micro-Dense-EfficientNet is trained on ImageNet (arXiv 2004.08796, Section 4.1).

aggnets train --config=configs/recipes/micro_dense_imagenet.py --workdir=runs/mde

SGD with Nesterov momentum 0.9 without dampening and weight decay 1e-5 on batches of 400 images;
half a cosine from 0.2 to 0, times a linear warm-up (eqs. 15 and 16); AutoAugment.

Not in the paper: 350 epochs, dropout and stochastic depth of 0.2, as for EfficientNet-B0, and 5
epochs to warm up; random crops of 224 pixels, mirrored, before the policy.
"""

import ml_collections


def get_config():
    return ml_collections.ConfigDict(
        {
            "total_epochs": 350,
            "eval_every_steps": 3203,  # an epoch
            "checkpoint_every_steps": 3203,
            "batch_size": 400,
            "lr": 0.2,
            "schedule": "warmup_cosine",
            "schedule_args": {"warmup_epochs": 5},
            "weight_decay": 1e-5,
            "model": {
                "name": "micro_dense_efficientnet_b0",
                "args": {"dropout": 0.2, "drop_connect": 0.2},
            },
            "data": {
                "name": "imagenet2012",
                "image_size": 224,
                "policy": "autoaugment_imagenet",
            },
        }
    )
