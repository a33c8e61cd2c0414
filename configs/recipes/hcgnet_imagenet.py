"""How HCGNets are trained on ImageNet (arXiv 1908.09699, Experiments on ImageNet 2012).

aggnets train --config=configs/recipes/hcgnet_imagenet.py --workdir=runs/hcgnet_b

SGD with momentum 0.9 and weight decay 4e-5 on batches of 256 images; label smoothing of 0.1, mixup
with alpha = 0.4, dropout of 0.1 before the classifier. 630 epochs, in which the learning rate falls
from 0.1 to 0 by cosines of 10, 20, 40, ... 320 epochs. A single crop is evaluated.

Not in the paper, but in the authors' code: Nesterov momentum; one mixing ratio for a batch; one
learning rate for an epoch, in proportion to the batch; the smoothed probability is shared by the
other classes; random crops of 224 pixels, mirrored. Their batches were on two GPUs, each with batch
statistics of its own: --config.batch_norm=device on two devices.

What differs: in the authors' code the dropout has no effect, and AutoAugment's policy is applied
(--config.data.policy=autoaugment_imagenet), which the paper does not mention. The paper's
"augmentation following" DenseNet may mean colour jitter 0.4 and lighting 0.1, too.
"""

import ml_collections


def get_config():
    return ml_collections.ConfigDict(
        {
            "total_epochs": 630,
            "eval_every_steps": 5005,  # an epoch
            "checkpoint_every_steps": 5005,
            "batch_size": 256,
            "lr": 0.1,
            "lr_batch_size": 256,
            "schedule": "sgdr",
            "schedule_args": {
                "first_cycle_epochs": 10,
                "cycle_multiplier": 2.0,
                "every": "epoch",
            },
            "weight_decay": 4e-5,
            "label_smoothing": 0.1,
            "label_smoothing_over": "others",
            "model": {"name": "hcgnet_b", "args": {"dropout": 0.1}},
            "data": {"name": "imagenet2012", "image_size": 224, "mixup": 0.4},
        }
    )
