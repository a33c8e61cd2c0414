"""How SeqResNets and SeqResNeXts are trained on ImageNet (arXiv 1811.10798, Section 4.2).

aggnets train --config=configs/recipes/seqconv_imagenet.py --workdir=runs/seqresnet_b42

SGD with Nesterov momentum 0.9 and weight decay 1e-4 on batches of 256 images, 100 epochs; the
learning rate is 0.1, divided by 10 every 30 epochs. "The standard augmentation scheme" is random
crops of 224 pixels, mirrored, with colour jitter and lighting. A single crop is evaluated.

Not in the paper, but in the authors' code: how strong jitter and lighting are.
"""

import ml_collections


def get_config():
    return ml_collections.ConfigDict(
        {
            "total_epochs": 100,
            "eval_every_steps": 5005,  # an epoch
            "checkpoint_every_steps": 5005,
            "batch_size": 256,
            "lr": 0.1,
            "schedule": "step",
            "schedule_args": {"boundaries": (0.3, 0.6, 0.9)},
            "weight_decay": 1e-4,
            "model": {"name": "seqresnet_b42"},
            "data": {
                "name": "imagenet2012",
                "image_size": 224,
                "color_jitter": 0.4,
                "lighting": 0.1,
            },
        }
    )
