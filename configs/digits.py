"""SparseNet-BC on scikit-learn's 1,797 handwritten digits: minutes on a laptop.

python -m aggnets_jax.main --config=configs/digits.py --workdir=runs/digits
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            "total_steps": 600,
            "eval_every_steps": 100,
            "checkpoint_every_steps": 100,
            "batch_size": 64,
            "lr": 0.1,
            "schedule": "cosine",
            "schedule_args": {"warmup_steps": 50},
            "weight_decay": 5e-4,
            "label_smoothing": 0.1,
            "model": {"name": "sparsenet_bc40_k24"},
            "data": {"name": "aggnets_digits", "crop_padding": 1, "flip": False},
        }
    )
