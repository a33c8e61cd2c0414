"""A run of a tiny detector that takes seconds."""


def tiny_detection(scenes_dir, detector="mask_rcnn_fpn", detector_args=None, **changes):
    """Two levels of few channels, on the few scenes of `scenes_dir`."""
    sizes = {"pyramid": 8, "hidden": 16, "mask": 8, "mask_depth": 1, "anchor_scale": 4}
    return {
        "task": "detection",
        "task_args": {
            "detector": detector,
            "conventions": "center",
            "long": 64,
            "short": 64,
            "mask_side": None,
            "detector_args": {
                "frozen": 0,
                "trains_statistics": True,
                "sizes": {**sizes, "finest": 14},
                "samples": {"anchors": 32, "positive_anchors": 16, "rois": 16, "positive_rois": 4},
                "limits": [{"pre_nms": 40, "post_nms": None, "proposals": 24}] * 2,
                "most": 8,
                "candidates": 50,
                **(detector_args or {}),
            },
        },
        "total_steps": 4,
        "log_every_steps": 1,
        "eval_every_steps": 2,
        "checkpoint_every_steps": 2,
        "batch_size": 4,
        "eval_batch_size": 4,
        "lr": 0.02,
        "schedule": "constant",
        "grad_clip_norm": 10.0,
        "model": {
            "name": "sparsenet_imagenet",
            "args": {"growth_rate": 8, "stage_depths": (1, 1), "stem_features": 8},
        },
        "data": {"name": "coco_folder", "data_dir": scenes_dir},
        **changes,
    }
