"""The three procedures of "ResNet strikes back" on ImageNet (arXiv 2110.00476, Table 2).

aggnets train --config=configs/recipes/strikes_back_imagenet.py:a2 --workdir=runs/a2

LAMB, a binary cross entropy for each class, RandAugment, mixup and CutMix, three augmented copies
of each image in a batch (a1, a2), stochastic depth that grows with depth (a1, a2), bfloat16 with
float32 parameters. a1 has 600 epochs, a2 300 and a3 100; a3 trains with 160 pixels and evaluates
with 224.

Different from the paper: RandAugment has the same strength for all images, and applies all of its
operations; batches of three copies have 2016 images, not 2048, and the learning rate is in
proportion; a sixth of the images are mixed with a copy of themselves, because copies stand side by
side; gradients are clipped to the norm 1, as timm's LAMB does; a3 scales images of 224 pixels down;
the central crop of an evaluation is the usual one.
"""

import ml_collections


def get_config():
    return ml_collections.ConfigDict(
        {
            "total_epochs": 600,
            "eval_every_steps": 6355,  # ten epochs
            "checkpoint_every_steps": 1271,
            "batch_size": 2016,
            "lr": 5e-3,
            "lr_batch_size": 2048,
            "schedule": "cosine",
            "schedule_args": {"warmup_epochs": 5, "end_factor": 2e-4},
            "optimizer": "lamb",
            "optimizer_args": {"always_adapt": False},
            "weight_decay": 0.01,
            "weight_decay_on": "kernels",
            "grad_clip_norm": 1.0,
            "loss": "binary_cross_entropy",
            "loss_args": {"threshold": 0.2},
            "label_smoothing": 0.1,
            "dtype": "bfloat16",
            "model": {"name": "resnet50", "args": {"stochastic_depth": 0.05}},
            "data": {
                "name": "imagenet2012",
                "image_size": 224,
                "policy": "randaugment",
                "policy_args": {"magnitude": 7},
                "repeats": 3,
                "mixup": 0.2,
                "cutmix": 1.0,
            },
        }
    )


def sweep():
    shorter = {"weight_decay": 0.02, "label_smoothing": 0.0, "data.mixup": 0.1}
    yield "a1", {}
    yield "a2", {"total_epochs": 300, **shorter}
    yield (
        "a3",
        {
            "total_epochs": 100,
            **shorter,
            "batch_size": 2048,
            "lr": 8e-3,
            "progressive": ((0.0, 160),),
            "model.args": {"stochastic_depth": 0.0},
            "data.repeats": 1,
            "data.policy_args": {"magnitude": 6},
        },
    )
