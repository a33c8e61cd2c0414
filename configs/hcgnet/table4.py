r"""HCGNet (arXiv 1908.09699), Table 4: Mask R-CNN on COCO 2017, with a feature pyramid.

aggnets train --config=configs/hcgnet/table4.py:hcgnet_b --config.data.data_dir=COCO \
    --config.init_from=WEIGHTS --workdir=runs/hcgnet_b_coco

COCO is the folder with annotations/, train2017/ and val2017/; WEIGHTS are those of the backbone on
ImageNet: the workdir of a run of configs/hcgnet/table3.py, or a file of PyTorch weights.

Printed: HCGNet-B. The row of ResNet-50 is the figure of mmdetection 1.x's own model zoo, and that
of AOGNet-12M its authors'; they are here for comparison.

Cost: 9.4e17 to 1.1e18 MACs.

SGD for 12 epochs, with the learning rate divided by 10 before epochs 8 and 11, counted from 0;
momentum 0.9, weight decay 1e-4 on all trained parameters, gradients clipped at norm 35, a warm-up
of 500 steps. Images of up to 1333x800 pixels, mirrored. Stem and first stage are frozen, and batch
normalisation is as in evaluation. All of this is from the authors' config; the paper does not say
it.

HCGNet-B was trained on two devices of two images, ResNet-50 on eight of two; a loss is normalised
over the two images of a device here, too. COCO's few boxes without an area are left out.
"""

import ml_collections

PRINTED = "prints box AP {} (AP50 {}, AP75 {}) and mask AP {} (AP50 {}, AP75 {})"


def get_config():
    return ml_collections.ConfigDict(
        {
            "task": "detection",
            "task_args": {
                "detector": "mask_rcnn_fpn",
                "conventions": "legacy",
                "detector_args": {"frozen": 1, "loss_group": 2},
            },
            "total_epochs": 12,
            "batch_size": 16,
            "eval_batch_size": 8,
            "lr": 0.02,
            "lr_batch_size": 16,
            "schedule": "step",
            "schedule_args": {"boundaries": (8 / 12, 11 / 12), "warmup_steps": 500},
            "nesterov": False,
            "weight_decay": 1e-4,
            "grad_clip_norm": 35.0,
            "model": {"name": "hcgnet_b"},
            "data": {
                "name": "coco_folder",
                "train_split": "train2017",
                "eval_split": "val2017",
                "damaged": "skip",
            },
            "paper": {"source": "HCGNet, Table 4"},
        }
    )


def sweep():
    for network, batch_size, numbers, remark in [
        ("hcgnet_b", 4, (38.3, 60.6, 41.3, 35.2, 57.5, 37.1), ""),
        ("resnet50", 16, (37.3, 59.9, 40.2, 34.2, 55.9, 36.2), "; quoted from mmdetection 1.x"),
        ("aognet_12m", 16, (38.0, 59.8, 41.3, 34.6, 56.6, 36.4), "; quoted from its authors"),
    ]:
        epoch = 117_266 // batch_size
        yield (
            network,
            {
                "model.name": network,
                "batch_size": batch_size,
                "eval_every_steps": epoch,
                "checkpoint_every_steps": epoch // 4,
                "paper.remark": PRINTED.format(*numbers) + remark,
            },
        )
