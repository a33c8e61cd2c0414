"""A short training on ImageNet whose images grow: 18 epochs from 128 to 224 pixels.

aggnets train --config=configs/recipes/progressive_imagenet.py --workdir=runs/progressive

After "Fixing the train-test resolution discrepancy" (arXiv 1906.06423), "EfficientNetV2" (arXiv
2104.00298, progressive learning) and the ImageNet examples of FFCV: SGD with Nesterov momentum and
label smoothing, a learning rate that falls linearly, averaged weights that follow the parameters at
first, bfloat16 with float32 parameters. The evaluation has 224 pixels.
"""

import ml_collections


def get_config():
    return ml_collections.ConfigDict(
        {
            "total_epochs": 18,
            "eval_every_steps": 1251,  # an epoch
            "checkpoint_every_steps": 1251,
            "batch_size": 1024,
            "lr": 0.5,
            "lr_batch_size": 256,
            "schedule": "linear",
            "schedule_args": {"warmup_epochs": 2},
            "weight_decay": 5e-5,
            "weight_decay_on": "kernels",
            "label_smoothing": 0.1,
            "ema_decay": 0.9995,
            "ema_warmup": True,
            "dtype": "bfloat16",
            "progressive": ((0.0, 128), (0.3, 160), (0.6, 192), (0.85, 224)),
            "model": {"name": "resnet50"},
            "data": {"name": "imagenet2012", "image_size": 224},
        }
    )
