"""How DSNets and DS2Nets are trained on ImageNet (arXiv 2010.12496, Section 4.2).

aggnets train --config=configs/recipes/dsnet_imagenet.py --workdir=runs/dsnet

100 epochs of SGD on batches of 128 images; the learning rate is 0.05, divided by 10 after every 30
epochs, and scaled linearly for other batch sizes; random crops of 224 pixels, of any scale and
aspect ratio. A single crop is evaluated.

Not in the paper: momentum 0.9 without Nesterov's, weight decay 1e-4 and mirrored images, as for
ResNets, which it follows; no colour jitter. The paper's four devices normalised 32 images each: use
--config.batch_norm=device on four devices.
"""

import ml_collections


def get_config():
    return ml_collections.ConfigDict(
        {
            "total_epochs": 100,
            "eval_every_steps": 10_009,  # an epoch
            "checkpoint_every_steps": 10_009,
            "batch_size": 128,
            "lr": 0.05,
            "lr_batch_size": 128,
            "schedule": "step",
            "schedule_args": {"boundaries": (0.3, 0.6, 0.9)},
            "nesterov": False,
            "weight_decay": 1e-4,
            "model": {"name": "dsnet50"},
            "data": {"name": "imagenet2012", "image_size": 224},
        }
    )
