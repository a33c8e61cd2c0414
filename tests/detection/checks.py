"""Checks of the parts of detectors against golden files; each takes a file's input and output."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax.detection import anchors, assign, boxes, images, losses, masks, nms, roi_align
from aggnets_jax.detection import proposals as proposing
from aggnets_jax.detection.coco import coco_figures
from aggnets_jax.detection.conventions import CENTER, LEGACY, TORCHVISION
from aggnets_jax.training.schedules import make_schedule

NAMED = {"legacy": LEGACY, "center": CENTER, "tv": TORCHVISION}
STRIDES = (4, 8, 16, 32, 64)


def close(actual, expected, rtol=1e-6, atol=1e-8):
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=rtol, atol=atol)


def same(actual, expected):
    np.testing.assert_array_equal(np.asarray(actual), np.asarray(expected))


def array(values):
    return jnp.asarray(np.asarray(values, np.float64))


def check_anchors(given, expected):
    for name, wanted in expected.items():
        options = {"scale": given["scale"], "ratios": given["ratios"]}
        base = [anchors.base_anchors(s, NAMED[name], **options) for s in given["strides"]]
        close(base, wanted["base"])
        levels = anchors.level_anchors(
            given["padded"], given["strides"], NAMED[name], dtype=jnp.float64, **options
        )
        every = jnp.concatenate(levels)
        inside = np.flatnonzero(boxes.inside(every, jnp.array(given["image"])))
        same([len(level) for level in levels], wanted["per_level"])
        assert len(every) == wanted["total"]
        close(every.sum(axis=0), wanted["sum"])
        close(every[jnp.array(wanted["picked_index"])], wanted["picked"])
        assert len(inside) == wanted["inside_count"]
        same(inside[: len(wanted["inside_first"])], wanted["inside_first"])
        close([level[0] for level in levels], wanted["level_first"])
        close([level[-1] for level in levels], wanted["level_last"])


def check_coder(given, expected):
    proposals, objects, deltas = (array(given[k]) for k in ("proposals", "gt", "deltas"))
    for name, wanted in expected.items():
        conventions, stds = NAMED[name.split("_")[0]], wanted["stds"]
        close(boxes.encode(objects, proposals, stds, conventions), wanted["encode"])
        decoded = boxes.decode(deltas, proposals, stds, conventions)
        close(decoded, wanted["decode"], atol=1e-6)
        clipped = boxes.clip(decoded, jnp.array(given["image"]), conventions)
        close(clipped, wanted["decode_clipped"], atol=1e-6)


def check_assign(given, expected):
    objects, proposals = array(given["gt"]), array(given["proposals"])
    real, size = jnp.ones(len(objects), bool), jnp.array(given["image"])
    padded = given.get("padded", images.padded(given["image"]))
    # Rows of padding must change nothing.
    objects = jnp.concatenate([objects, jnp.zeros((3, 4))])
    real = jnp.concatenate([real, jnp.zeros(3, bool)])
    for name, wanted in expected.items():
        kind, convention = name.split("_")[:2]
        conventions, first = NAMED[convention], 0 if convention == "tv" else 1
        if kind == "rpn":
            levels = anchors.level_anchors(padded, STRIDES, conventions, dtype=jnp.float64)
            every = jnp.concatenate(levels)
            allowed = jnp.ones(len(every), bool)
            if conventions.anchors_inside:
                allowed = boxes.inside(every, size)
            found = np.asarray(assign.assign_anchors(objects, real, every, allowed, conventions))
            positive = np.flatnonzero(found >= 0)
            negative = np.flatnonzero(found == assign.NEGATIVE)
            counts = wanted["counts"]
            assert len(positive) == counts["positive"]
            assert len(negative) == counts["negative"]
            assert (found == assign.IGNORED).sum() == counts["ignored"]
            same(positive, wanted["positive_index"])
            same(found[positive] + first, wanted["positive_gt"])
            assert negative.sum() == wanted["negative_index_sum"]
        elif kind == "rcnn":
            allowed = jnp.ones(len(proposals), bool)
            found = assign.assign_proposals(objects, real, proposals, allowed, conventions)
            same(found + first, wanted)
        else:
            assert kind == "iou"
            rows, columns = np.shape(wanted)
            close(boxes.iou(objects[:rows], proposals[:columns], conventions), wanted)


def check_nms(given, expected):
    objects, scores = array(given["boxes"]), array(given["scores"])
    classes, valid = jnp.array(given["classes"]), jnp.ones(len(scores), bool)
    order, _ = nms.descending(scores, valid, len(scores))
    for name, wanted in expected.items():
        if name == "tie_rule":
            continue
        _, *kind, threshold = name.split("_")
        conventions = LEGACY if "legacy" in kind else CENTER
        by_class = classes[order] if "class" in kind else None
        keep = nms.nms(objects[order], valid, float(threshold), conventions, by_class)
        same(order[keep], wanted)


def check_roi_align(given, expected):
    features = np.random.RandomState(given["seed"]).standard_normal(given["shape"])
    features, rois = jnp.asarray(features.transpose(1, 2, 0)), array(given["rois"])
    styles = {"aligned": CENTER, "unaligned": TORCHVISION, "legacy": LEGACY}
    for name, wanted in expected.items():
        style, ratio, size, *sums = name.split("_")
        sides = (rois[:, 2:] - rois[:, :2] + 1) * given["scale"]
        pooled = roi_align.roi_align(
            features,
            rois,
            int(size),
            given["scale"],
            styles[style],
            ratio=int(ratio),
            bound=int(np.ceil(sides.max() / int(size))),
        )
        pooled = pooled.transpose(0, 3, 1, 2)
        close(pooled.sum(axis=(1, 2, 3)) if sums else pooled, wanted)
        if ratio == "2":
            gathered = roi_align.pool(
                [features], [1 / given["scale"]], rois, int(size), styles[style]
            ).transpose(0, 3, 1, 2)
            close(gathered, pooled)


def check_levels(given, expected):
    for name, wanted in expected.items():
        same(roi_align.level_of(array(given["rois"]), 4, NAMED[name]), wanted)


def check_losses(given, expected):
    labels, sampled = jnp.array(given["rpn_labels"]) > 0, jnp.array(given["rpn_sampled"])
    positive, negative = labels & sampled, ~labels & sampled
    count = losses.count_samples(positive.sum(1), negative.sum(1), counts_empty=True)
    logits, targets = array(given["rpn_logits"]), array(given["rpn_target"])
    by_rpn = partial(losses.box_loss, array(given["rpn_pred"]), targets, positive, count)
    columns = jnp.array(given["roi_labels"])
    own = losses.own_class(array(given["roi_pred"]), columns)
    roi_logits, every = array(given["roi_logits"]), jnp.ones(len(columns), bool)
    by_roi = partial(losses.box_loss, own, array(given["roi_target"]), columns > 0, len(columns))
    rpn = partial(losses.rpn_class_loss, positive=positive, negative=negative, count=count)
    roi = partial(losses.roi_class_loss, columns=columns, sampled=every)
    mask_columns = given.get("mask_labels", given.get("mask_classes"))
    found = {
        "rpn_samples": count,
        "rpn_cls": rpn(logits),
        "rpn_box": by_rpn(losses.RPN_BETA),
        "rpn_box_l1": by_rpn(0),
        "roi_cls": roi(roi_logits),
        "roi_box_beta1": by_roi(LEGACY.roi_beta),
        "roi_box_beta_ninth_tv": by_roi(TORCHVISION.roi_beta),
        "roi_box_l1": by_roi(CENTER.roi_beta),
        "grad_rpn_cls_row0": jax.grad(rpn)(logits)[0],
        "grad_roi_cls_row0": jax.grad(roi)(roi_logits)[0],
    }
    mask_logits = array(given["mask_logits"])
    if mask_columns is None:  # the positive RoIs, in order
        mask_columns = np.asarray(columns)[np.asarray(columns) > 0]
    own = losses.own_class(mask_logits, jnp.array(mask_columns)[: len(mask_logits)])
    found["mask"] = losses.mask_loss(
        own, array(given["mask_target"]), jnp.ones(len(mask_logits), bool)
    )
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        close(found[name], wanted)


def rows_of(pictures):
    """Return masks that are written as rows of 0 and 1."""
    return np.array([[[int(c) for c in row] for row in picture] for picture in pictures])


def check_masks(given, expected):
    objects = jnp.asarray(rows_of(given["gt_masks"]))
    rois, index = array(given["proposals"]), jnp.array(given["gt_index"])
    for name, conventions in NAMED.items():
        targets = masks.mask_targets(objects, rois, index, given["mask_size"], conventions)
        wanted = expected[f"target_{name}"]
        if name == "tv":
            close(targets, wanted, atol=6e-7)  # six decimals
        else:
            same(targets, rows_of(wanted))
    probabilities = np.asarray(given["probabilities"])
    for name, wanted in expected["paste"].items():
        pasted = masks.paste_masks(
            probabilities, np.asarray(given["paste_boxes"]), given["image"], NAMED[name]
        )
        binary = masks.binary_masks(pasted, NAMED[name])
        same(binary, rows_of(wanted["masks"]))
        same(binary.sum(axis=(1, 2)), wanted["area"])
        close(pasted.sum(axis=(1, 2)), wanted["sum"])


def check_resize(given, expected):
    long, short = max(given["scale"]), min(given["scale"])
    for wanted in expected:
        width, height = wanted["size_wh"]
        for name, conventions in (("mmdet", LEGACY), ("tv", TORCHVISION)):
            size, factor = images.resized((height, width), conventions, long=long, short=short)
            same(size[::-1], wanted[f"{name}_wh"])
            same(images.padded(size, given["divisor"])[::-1], wanted[f"{name}_padded"])
            close(factor, wanted["factor"])


def check_proposals(given, expected):
    random, rounds = np.random.RandomState(given["seed"]), partial(np.round, decimals=4)
    sizes = anchors.map_sizes(given["padded"], STRIDES)
    logits = [rounds(random.standard_normal((*s, 3)) * 2).reshape(-1) for s in sizes]
    deltas = [rounds(random.standard_normal((*s, 3, 4)) * 0.4).reshape(-1, 4) for s in sizes]
    for name, wanted in expected.items():
        if name.startswith("det_"):
            _check_detections(given, NAMED[name.removeprefix("det_")], wanted)
            continue
        conventions = NAMED[name]
        post = given["nms_post_per_level_legacy"] if name == "legacy" else None
        limits = proposing.Limits(given["nms_pre"], post, given["max_num"], given["nms_thr"])
        found = proposing.propose(
            [jnp.asarray(each) for each in logits],
            [jnp.asarray(each) for each in deltas],
            anchors.level_anchors(given["padded"], STRIDES, conventions, dtype=jnp.float64),
            jnp.array(given["image"]),
            limits,
            conventions,
        )
        count = int(found.valid.sum())
        assert count == wanted["count"]
        close(found.boxes[:count], wanted["boxes"])
        close(jax.nn.sigmoid(found.logits[:count]), wanted["scores"])
        same(found.levels[:count], wanted["levels"])


def _check_detections(given, conventions, wanted):
    scores = jax.nn.softmax(array(given["det_logits"]))[:, 1:]
    found = proposing.detect(
        scores,
        array(given["det_deltas"])[:, 1:],
        array(given["det_proposals"]),
        jnp.ones(len(scores), bool),
        jnp.array(given["det_image"]),
        conventions,
        least_score=given["score_thr"],
        threshold=given["nms"],
        most=given["max_per_img"],
    )
    count = int(found.valid.sum())
    assert int(found.cut) == 0
    close(found.boxes[:count], wanted["boxes"])
    close(found.scores[:count], wanted["scores"])
    same(found.labels[:count] + 1, wanted["labels"])


def check_schedule(given, expected):
    per_epoch = given["iterations_per_epoch"]
    epochs = max(12, *(step + 1 for step in given["steps"]))
    schedule = make_schedule(
        "step",
        given["base"],
        epochs * per_epoch,
        per_epoch,
        boundaries=[step / epochs for step in given["steps"]],
        warmup_steps=given["warmup"],
        warmup_factor=given["ratio"],
    )
    for count, rate in expected:
        close(schedule(count), rate)


def check_coco(given, expected):
    pytest.importorskip("pycocotools")
    for kind, results in (("bbox", given["detections"]), ("segm", given["segments"])):
        figures, per_category, per_threshold = coco_figures(given["ground_truth"], results, kind)[
            :3
        ]
        close(list(figures.values()), expected[kind])
        close(list(per_category.values()), expected[f"{kind}_per_category_AP"])
        close(per_threshold, expected[f"{kind}_per_threshold_AP"])
