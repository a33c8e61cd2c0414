r"""DSNet (arXiv 2010.12496), Table 8: Faster R-CNN on COCO 2014.

aggnets train --config=configs/dsnet/table8.py:dsnet50 --config.data.data_dir=COCO \
    --config.init_from=WEIGHTS --workdir=runs/dsnet50_coco

COCO is the folder with annotations/, train2014/ and val2014/; WEIGHTS are those of the backbone on
ImageNet: the workdir of a run of configs/dsnet/table7.py, or a file of PyTorch weights.

Printed: all three rows.

Cost: 2.7e17 MACs.

The paper names COCO 2014, Faster R-CNN and five epochs.

Not in the paper: everything else. Here it is a feature pyramid in the conventions of mmdetection
2.x; images of up to 1333x800 pixels, mirrored; SGD on batches of 16, a learning rate of 0.02,
divided by 10 after epochs 3 and 4, momentum 0.9, weight decay 1e-4 and a warm-up of 500 steps; stem
and first stage frozen. All normalisations, also of the shortcuts, keep their statistics from
ImageNet.
"""

import ml_collections

PRINTED = "prints box AP {} (AP50 {}, AP75 {})"
EPOCH = 82_783 // 16


def get_config():
    return ml_collections.ConfigDict(
        {
            "task": "detection",
            "task_args": {
                "detector": "faster_rcnn_fpn",
                "conventions": "center",
                "detector_args": {"frozen": 1, "loss_group": 2},
            },
            "total_epochs": 5,
            "eval_every_steps": EPOCH,
            "checkpoint_every_steps": EPOCH // 4,
            "batch_size": 16,
            "eval_batch_size": 8,
            "lr": 0.02,
            "lr_batch_size": 16,
            "schedule": "step",
            "schedule_args": {
                "boundaries": (3 / 5, 4 / 5),
                "warmup_steps": 500,
                "warmup_factor": 0.001,
            },
            "nesterov": False,
            "weight_decay": 1e-4,
            "model": {"name": "dsnet50"},
            "data": {
                "name": "coco_folder",
                "train_split": "train2014",
                "eval_split": "val2014",
                "damaged": "skip",
            },
            "paper": {"source": "DSNet, Table 8"},
        }
    )


def sweep():
    for network, numbers in [
        ("resnet50", (31.4, 51.3, 33.6)),
        ("dsnet50", (33.7, 54.2, 36.0)),
        ("ds2net50", (33.7, 54.3, 36.2)),
    ]:
        yield network, {"model.name": network, "paper.remark": PRINTED.format(*numbers)}
