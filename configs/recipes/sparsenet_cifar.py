"""How SparseNets, DenseNets and ResNets are trained on CIFAR (arXiv 1801.05895, Section 4.1).

aggnets train --config=configs/recipes/sparsenet_cifar.py --workdir=runs/sparsenet

SGD with Nesterov momentum 0.9 and weight decay 1e-4 on all parameters; the learning rate is 0.1,
divided by 10 at epochs 150 and 225; images are shifted by up to 4 pixels and mirrored.

Not in the paper: 300 epochs and batches of 64 images, which are those of DenseNet and of the
authors' code.
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
            "model": {"name": "sparsenet_bc100_k24"},
            "data": {"name": "cifar10"},
        }
    )
