"""Mask R-CNN on a tiny SparseNet, on scenes of handwritten digits: minutes on a laptop.

aggnets train --config=configs/detection/digit_scenes.py --workdir=runs/digit_scenes

The scenes are made at the first start. The network starts without trained weights, so its batch
normalisation is trained, too. Box AP and mask AP reach 0.45 and more.
"""

import ml_collections


def get_config():
    return ml_collections.ConfigDict(
        {
            "task": "detection",
            "task_args": {
                "conventions": "center",
                "long": 64,
                "short": 64,
                "mask_side": None,
                "detector_args": {
                    "frozen": 0,
                    "trains_statistics": True,
                    "sizes": {
                        "pyramid": 32,
                        "hidden": 128,
                        "mask": 32,
                        "mask_depth": 2,
                        "anchor_scale": 4,
                        "finest": 14,
                    },
                    "samples": {"rois": 56, "positive_rois": 8},
                    "limits": [{"pre_nms": 100, "post_nms": None, "proposals": 64}] * 2,
                    "candidates": 200,
                },
            },
            "total_steps": 500,
            "log_every_steps": 20,
            "eval_every_steps": 250,
            "checkpoint_every_steps": 250,
            "batch_size": 8,
            "eval_batch_size": 50,
            "lr": 0.05,
            "schedule": "cosine",
            "schedule_args": {"warmup_steps": 50},
            "grad_clip_norm": 10.0,
            "weight_decay": 1e-4,
            "model": {
                "name": "sparsenet_imagenet",
                "args": {"growth_rate": 24, "stage_depths": (4, 4, 4), "stem_features": 48},
            },
            "data": {"name": "aggnets_digit_scenes", "flip": False},
        }
    )
