"""A training on CIFAR-10 of minutes on one GPU, after Keller Jordan's airbench (arXiv 2404.00498).

aggnets train --config=configs/recipes/speed_cifar.py --workdir=runs/speed

From its several versions: Muon for the kernels, batches of 1024 images, a learning rate that rises
and falls linearly, label smoothing of 0.2, images that are mirrored in every other epoch,
translations by 2 pixels, Cutout, averaged weights, bfloat16 with float32 parameters.

Different from airbench: AdamW for the other parameters instead of SGD, a Wide ResNet instead of its
own network, twice its epochs, no whitened first layer, no averaging over mirrored images in the
evaluation.
"""

import ml_collections


def get_config():
    return ml_collections.ConfigDict(
        {
            "total_epochs": 32,
            "eval_every_steps": 196,  # four epochs
            "checkpoint_every_steps": 196,
            "batch_size": 1024,
            "eval_batch_size": 2000,
            "lr": 0.02,
            "schedule": "linear",
            "schedule_args": {"warmup_epochs": 7, "start_factor": 0.2, "end_factor": 0.07},
            "optimizer": "muon",
            "optimizer_args": {"adam_lr_factor": 0.2},
            "weight_decay": 0.01,
            "weight_decay_on": "kernels",
            "label_smoothing": 0.2,
            "ema_decay": 0.99,
            "ema_warmup": True,
            "dtype": "bfloat16",
            "model": {"name": "wrn", "args": {"depth": 16, "widening": 4}},
            "data": {"name": "cifar10", "crop_padding": 2, "flip_alternately": True, "cutout": 12},
        }
    )
