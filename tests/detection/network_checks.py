"""Checks of whole detectors against figures of torchvision's definition, in float64."""

import re
import warnings
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from aggnets_jax.convert.detectors import _order as order_of
from aggnets_jax.convert.detectors import _shapes, detector_from_torch, detector_names
from aggnets_jax.detection import CONVENTIONS, create_detector, images, masks
from aggnets_jax.detection.proposals import Limits
from tests.detection.checks import close, same

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def weight(name, shape):
    """Draw a weight as tests/golden/README.md says."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        return 1 + 0.5 * random.rand(*shape)
    if name.endswith("running_mean"):
        return 0.1 * random.standard_normal(shape)
    if name.endswith("bias"):
        return 0.05 * random.standard_normal(shape)
    if ".bn" in name or "downsample.1" in name:
        return (0.2 if "bn3" in name else 1) * (1 + 0.1 * random.standard_normal(shape))
    gains = {"cls_logits": 0.5, "bbox_pred": 0.1, "cls_score": 0.3, "mask_fcn_logits": 1}
    gain = next((gain for part, gain in gains.items() if part in name), np.sqrt(2))
    return gain / np.sqrt(np.prod(shape[1:])) * random.standard_normal(shape)


def state_dict(detector):
    shapes, weights = _shapes(detector), {}
    for name, path in detector_names(detector).items():
        order = order_of(path, len(shapes[path]), inverse=True)
        weights[name] = weight(name, tuple(shapes[path][axis] for axis in order))
    return weights


MODULES = [
    *(
        "backbone",
        "body",
        "conv1",
        "bn1",
        "conv2",
        "bn2",
    ),
    *(
        "conv3",
        "bn3",
        "downsample",
        "layer1",
        "layer2",
        "layer3",
    ),
    *(
        "layer4",
        "fpn",
        "inner_blocks",
        "layer_blocks",
        "rpn",
        "head",
    ),
    *(
        "conv",
        "cls_logits",
        "cls_score",
        "bbox_pred",
        "roi_heads",
        "box_head",
    ),
    *(
        "fc6",
        "fc7",
        "box_predictor",
        "mask_head",
        "mask_predictor",
        "conv5_mask",
    ),
    *(
        "mask_fcn_logits",
        "weight",
        "bias",
        "running_mean",
        "running_var",
    ),
]


KNOWN = {
    *("batch", "image_sizes", "input_sum", "features", "objectness_sum", "deltas_abs_sum"),
    *("proposals_count", "proposals", "roi_features_of_first_5", "class_logits"),
    *("box_deltas_first_class", "detections"),
}


def place(name):
    """Return a key by which names are in the order of torchvision's modules."""
    return [int(p) if p.isdigit() else MODULES.index(p) for p in name.split(".")]


def inputs(given, first):
    """Return the padded images of a seed, and the sizes before and after resizing."""
    before, after, scaled = [], [], []
    sizes = re.findall(r"\((\d+),(\d+)\)", given["images"])
    for i, size in enumerate(tuple(map(int, size)) for size in sizes):
        image = np.random.RandomState(first + i).rand(3, *size).transpose(1, 2, 0)
        new, _ = images.resized(
            size, CONVENTIONS["torchvision"], long=given["max_size"], short=given["min_size"]
        )
        before.append(size)
        after.append(new)
        scaled.append(images.resize((image - MEAN) / STD, new))
    batch = np.zeros((2, *images.padded(np.max(after, axis=0)), 3))
    for image, (height, width), into in zip(scaled, after, batch, strict=True):
        into[:height, :width] = image
    return batch, before, after


def check_torchvision(given, expected):
    kind = "mask_rcnn_fpn" if given["model"].startswith("mask") else "faster_rcnn_fpn"
    limits = Limits(given["rpn_pre_nms_top_n"], None, given["rpn_post_nms_top_n"])
    detector = create_detector(
        kind,
        "resnet50",
        given["num_classes"] - 1,
        conventions="torchvision",
        least_score=given["score_thresh"],
        nms_threshold=given["nms"],
        most=given["per_image"],
        limits=(limits, limits),
        dtype=jnp.float64,
    )
    weights = state_dict(detector)
    assert len(weights) == given["names"]
    lines = [f"{name} {weights[name].shape}" for name in sorted(weights, key=place)]
    assert zlib.crc32("\n".join(lines).encode()) == given["names_crc"]
    close(sum(np.abs(value).sum() for value in weights.values()), given["weights_abs_sum"])
    variables = detector_from_torch(detector, weights, dtype=np.float64)
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == given["parameters"]

    # One of the two files has the seeds from 100 on, the other from 110 on.
    either = [inputs(given, first) for first in (100, 110)]
    batch, before, after = min(
        either, key=lambda each: abs(each[0].sum() - sum(expected["input_sum"]))
    )
    same([2, 3, *batch.shape[1:3]], expected["batch"])
    same(after, expected["image_sizes"])
    close(batch.sum(axis=(1, 2, 3)), expected["input_sum"])
    for name in expected.keys() - KNOWN:
        warnings.warn(f"{name} has no check", stacklevel=2)
    found = jax.jit(lambda v, x, s: run(detector, v, x, s))(variables, batch, jnp.array(after))
    check_intermediate(found, expected)
    check_detections(found, expected["detections"], before, after)


def run(detector, variables, batch, sizes):
    """Return all that a golden file has figures of."""

    def every(bound, batch, sizes):
        maps = bound.features(batch)
        logits, deltas = bound.rpn(maps)
        proposals = bound.propose(batch.shape[1:3], logits, deltas, sizes, train=False)
        first = proposals.boxes[:, :5]
        return {
            "features": maps,
            "logits": logits,
            "deltas": deltas,
            "proposals": proposals,
            "roi_features": bound.roi_features(maps, first, 7),
            "boxes": bound.predict_boxes(maps, first),
            "detections": bound(batch, sizes),
        }

    return detector.apply(variables, batch, sizes, method=every)


def check_intermediate(found, expected):
    for features, wanted in zip(found["features"], expected["features"].values(), strict=True):
        batch, height, width, channels = features.shape
        same([batch, channels, height, width], wanted["shape"])
        close(features.sum(axis=(1, 2, 3)), wanted["sum"])
        close(jnp.abs(features).mean(axis=(1, 2, 3)), wanted["abs_mean"])
        close(features[0, 0, 0, :4], wanted["corner"])
    close([each.sum() for each in found["logits"]], expected["objectness_sum"])
    close([jnp.abs(each).sum() for each in found["deltas"]], expected["deltas_abs_sum"])
    proposals = found["proposals"]
    same(proposals.valid.sum(axis=1), expected["proposals_count"])
    close(proposals.boxes[:, :10], expected["proposals"])
    close(found["roi_features"].sum(axis=(1, 2, 3)), expected["roi_features_of_first_5"])
    logits, deltas = found["boxes"]
    close(logits.reshape(10, -1), expected["class_logits"])
    close(deltas[:, :, 1].reshape(10, 4), expected["box_deltas_first_class"])


def check_detections(found, expected, before, after):
    detections, probabilities = found["detections"]
    for i, wanted in enumerate(expected):
        number = int(detections.valid[i].sum())
        # torchvision's ratios are of float32 also here.
        scale = np.tile(np.divide(*np.float32([before[i], after[i]]))[::-1], 2)
        boxes = np.asarray(detections.boxes[i, :number], np.float64) * scale
        close(boxes, wanted["boxes"])
        close(detections.scores[i, :number], wanted["scores"])
        same(detections.labels[i, :number] + 1, wanted["labels"])
        if probabilities is not None:
            small = np.asarray(probabilities[i, :number])
            check_masks_of_image(small, boxes, before[i], wanted)


def check_masks_of_image(small, boxes, size, wanted):
    """Compare masks with figures: sums and areas, and what else can be recognised by its shape.

    `small` are the probabilities in the boxes; figures are of the pasted masks, or of these.
    """
    pasted = masks.paste_masks(small, boxes, size, CONVENTIONS["torchvision"])
    binary = masks.binary_masks(pasted, CONVENTIONS["torchvision"]).astype(int)
    figures = [*(x.sum(axis=(1, 2)) for x in (pasted, small, binary, small > 0.5))]
    figures += [*(x.mean(axis=(1, 2)) for x in (pasted, small)), pasted.sum(), binary.sum()]
    shapes = [np.array(pasted.shape), np.insert(pasted.shape, 1, 1)]
    compared = 0
    for name, value in flat(wanted):
        if name in ("boxes", "scores", "labels"):
            continue
        value = as_numbers(value)
        if "shape" in name:
            assert any(np.array_equal(value, shape) for shape in shapes), name
        elif any(word in name for word in ("sum", "area", "pixels", "mean")) or value.ndim == 1:
            near = (x.shape == value.shape and np.allclose(x, value, 1e-6) for x in figures)
            assert any(near), f"{name} is no sum and no area of the masks: {value}"
        elif value.shape[-2:] == pasted.shape[1:]:
            whole = pasted if (value % 1).any() else binary
            close(whole[: len(value)], value.reshape(-1, *pasted.shape[1:]))
        elif value.shape[-2:] == small.shape[1:]:
            close(small[: len(value)], value.reshape(-1, *small.shape[1:]))
        else:
            warnings.warn(f"{name} has no check", stacklevel=2)
            continue
        compared += 1
    assert compared, "a file of Mask R-CNN without a figure of its masks"


def flat(figures, prefix=""):
    """Yield the names and values of nested figures."""
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", value


def as_numbers(value):
    """Return an array, also of rows of digits."""
    if isinstance(value, str):
        return np.array([int(digit) for digit in value])
    return np.array([as_numbers(each) for each in value] if isinstance(value, list) else value)
