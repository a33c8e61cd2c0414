"""How HCGNets are trained on CIFAR (arXiv 1908.09699, Experiments on CIFAR).

aggnets train --config=configs/recipes/hcgnet_cifar.py --workdir=runs/hcgnet

SGD with momentum 0.9 and weight decay 1e-4 on batches of 128 images; mixup with alpha = 1; images
are shifted by up to 4 pixels and mirrored. Two runs of 630 epochs, the second from where the first
ends: the learning rate falls from 0.1 to 0 by cosines of 10, 20, 40, ... 320 epochs. HCGNet-A1 has
one run of 1270 epochs and a seventh cosine instead.

Not in the paper, but in the authors' code: Nesterov momentum; one mixing ratio for a batch; one
learning rate for an epoch; DropBlock of 2x2 squares after each transition, whose probability
rises from 0 to 0.1 while the learning rate falls.
"""

import ml_collections


def get_config():
    cycles = {"first_cycle_epochs": 10, "cycle_multiplier": 2.0, "every": "epoch", "repeats": 2}
    return ml_collections.ConfigDict(
        {
            "total_epochs": 1260,
            "eval_every_steps": 391,  # an epoch
            "checkpoint_every_steps": 391,
            "batch_size": 128,
            "lr": 0.1,
            "schedule": "sgdr",
            "schedule_args": dict(cycles),
            "weight_decay": 1e-4,
            "strength": 0.1,
            "strength_schedule": "sawtooth",
            "strength_args": dict(cycles),
            "model": {"name": "hcgnet_a2", "args": {"dropblock": 2}},
            "data": {"name": "cifar10", "mixup": 1.0},
        }
    )
