"""How SeqResNets are trained on CIFAR (arXiv 1811.10798, Section 4.2).

aggnets train --config=configs/recipes/seqconv_cifar.py --workdir=runs/seqresnet

SGD with Nesterov momentum 0.9 and weight decay 1e-4 on batches of 64 images, 300 epochs; the
learning rate is 0.1, divided by 10 at epochs 150 and 225; dropout of 0.1 before the last
convolution and each SeqConv layer but the first; images are shifted and mirrored.

Not in the paper, but in the authors' code: shifts by up to 4 pixels; the constants of the
normalisation; whole channels are dropped, anew for each group of a layer.
"""

import ml_collections


def get_config():
    return ml_collections.ConfigDict(
        {
            "total_epochs": 300,
            "eval_every_steps": 782,  # an epoch
            "checkpoint_every_steps": 782,
            "batch_size": 64,
            "lr": 0.1,
            "schedule": "step",
            "schedule_args": {"boundaries": (0.5, 0.75)},
            "weight_decay": 1e-4,
            "model": {"name": "seqresnet_b_k16_r7_n1", "args": {"dropout": 0.1}},
            "data": {
                "name": "cifar10",
                "mean": tuple(value / 255 for value in (125.3, 123.0, 113.9)),
                "std": tuple(value / 255 for value in (63.0, 62.1, 66.7)),
            },
        }
    )
