"""SparseNet-BC on scikit-learn's 1,797 handwritten digits: minutes on a laptop.

aggnets train --config=configs/digits.py --workdir=runs/digits
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            "total_steps": 600,
            "eval_every_steps": 100,
            "checkpoint_every_steps": 100,
            "batch_size": 64,
            "lr": 0.2,
            "schedule": "cosine",
            "schedule_args": {"warmup_steps": 50},
            "weight_decay": 5e-4,
            "label_smoothing": 0.1,
            "ema_decay": 0.98,
            # Eight layers on 8x8 pixels and four on 4x4: a third stage would see 2x2.
            "model": {"name": "sparsenet_bc", "args": {"growth_rate": 16, "stage_depths": (8, 4)}},
            "data": {"name": "aggnets_digits", "crop_padding": 1, "flip": False},
        }
    )
