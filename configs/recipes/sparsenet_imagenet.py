"""How SparseNets and DenseNets are trained on ImageNet (arXiv 1801.05895, Section 4.1).

aggnets train --config=configs/recipes/sparsenet_imagenet.py --workdir=runs/sparsenet

SGD with Nesterov momentum 0.9 and weight decay 1e-4 on all parameters; "the standard augmentation
scheme" of DenseNet and of fb.resnet.torch: random crops of 224 pixels, mirrored, with colour
jitter and lighting. A single crop is evaluated.

Not in the paper: 90 epochs, batches of 256 images, a learning rate of 0.1 divided by 10 at epochs
30 and 60, which are those of DenseNet.
"""

import ml_collections


def get_config():
    return ml_collections.ConfigDict(
        {
            "total_epochs": 90,
            "eval_every_steps": 5005,  # an epoch
            "checkpoint_every_steps": 5005,
            "batch_size": 256,
            "lr": 0.1,
            "schedule": "step",
            "schedule_args": {"boundaries": (1 / 3, 2 / 3)},
            "weight_decay": 1e-4,
            "model": {"name": "sparsenet201_k32"},
            "data": {
                "name": "imagenet2012",
                "image_size": 224,
                "color_jitter": 0.4,
                "lighting": 0.1,
            },
        }
    )
