"""Small networks on scikit-learn's handwritten digits, for any number of images.

Chosen for all networks alike, before any of them was trained: the batch and the learning rate of
the CIFAR recipes, a cosine with a short warm-up, and augmentation
without mirroring, which would change digits.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            "total_steps": 400,
            "log_every_steps": 100,
            "eval_every_steps": 400,
            "checkpoint_every_steps": 400,
            "batch_size": 64,
            "lr": 0.1,
            "schedule": "cosine",
            "schedule_args": {"warmup_steps": 40},
            "weight_decay": 5e-4,
            "label_smoothing": 0.1,
            "model": {"name": "sparsenet_bc28_k8"},
            "data": {"name": "aggnets_digits", "crop_padding": 1, "flip": False},
        }
    )
