"""Mask R-CNN in PyTorch computes what ours does, with torchvision's weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax.convert.detectors import detector_from_torch
from aggnets_jax.detection import create_detector
from aggnets_jax.detection.proposals import Limits
from aggnets_jax.detection.training import Objects

torch = pytest.importorskip("torch")

from aggnets_jax.benchmark.torch_networks.mask_rcnn import MaskRCNN, Target  # noqa: E402

# More samples than candidates, so that all are taken and no draw matters.
ALL = {"anchors": 4000, "positive_anchors": 2000, "rois": 200, "positive_rois": 40}
LIMITS = (Limits(30, None, 40), Limits(20, None, 15))


def both(random):
    """Return our detector and PyTorch's with the same random weights, in float64."""
    ours = create_detector(
        "mask_rcnn_fpn",
        "resnet50",
        3,
        conventions="torchvision",
        sizes={"pyramid": 8, "hidden": 16, "mask": 8},
        samples=ALL,
        limits=LIMITS,
        most=6,
        dtype=jnp.float64,
    )
    theirs = MaskRCNN(ours).double().eval()
    weights = {}
    for name, value in theirs.state_dict().items():
        noise = random.standard_normal(value.shape)
        if name.endswith("running_var"):
            value = 1 + 0.5 * random.uniform(size=value.shape)
        elif value.ndim == 1:  # scales are near 1, and small at the end of a block
            value = ((0.2 if "bn3" in name else 1) if name.endswith("weight") else 0) + 0.1 * noise
        elif value.ndim:
            value = noise * np.sqrt(2 / np.prod(value.shape[1:]))
        weights[name] = np.asarray(value)
    theirs.load_state_dict({name: torch.as_tensor(value) for name, value in weights.items()})
    return ours, detector_from_torch(ours, weights, dtype=np.float64), theirs


@pytest.mark.slow
def test_losses_gradients_and_detections_are_the_same():
    random = np.random.default_rng(0)
    images = random.standard_normal((2, 64, 96, 3))
    boxes = np.array([[[5.0, 8, 50, 60], [40, 10, 90, 40]], [[10, 3, 60, 50], [0, 0, 0, 0]]])
    labels, valid = np.array([[0, 2], [1, 0]]), np.array([[True, True], [True, False]])
    masks = np.zeros((2, 2, 64, 96))
    for i, k in zip(*np.nonzero(valid), strict=True):
        x1, y1, x2, y2 = boxes[i, k].astype(int)
        masks[i, k, y1:y2, x1:x2] = random.uniform(size=(y2 - y1, x2 - x1)) < 0.7
    with jax.enable_x64(True):
        ours, variables, theirs = both(random)
        sizes = jnp.tile(jnp.array([64, 96]), (2, 1))
        objects = Objects(*(jnp.asarray(each) for each in (boxes, labels, valid, masks)))

        def loss(params):
            keys = jax.random.split(jax.random.key(0), 2)
            parts = ours.apply(
                {**variables, "params": params}, images, sizes, objects, keys, method="losses"
            )
            return sum(parts.values()), parts

        gradient, parts = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
        detections, shapes = jax.jit(ours.apply)(variables, images, sizes)
    pictures = torch.as_tensor(images.transpose(0, 3, 1, 2))
    targets = [
        Target(*(torch.as_tensor(x[i][valid[i]]) for x in (boxes, labels + 1, masks)))
        for i in range(2)
    ]
    wanted = theirs.losses(pictures, targets)
    for name, value in wanted.items():
        assert float(parts[name]) == pytest.approx(value.item(), rel=1e-9), name
    sum(wanted.values()).backward()
    compare_gradients(gradient, theirs)
    with torch.no_grad():
        for i, (found, scores, classes, probabilities) in enumerate(theirs(pictures)):
            number = int(detections.valid[i].sum())
            assert number == len(found) > 0
            np.testing.assert_allclose(detections.boxes[i, :number], found, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(detections.scores[i, :number], scores, rtol=1e-9)
            np.testing.assert_array_equal(detections.labels[i, :number] + 1, classes)
            np.testing.assert_allclose(shapes[i, :number], probabilities, rtol=1e-8)


def compare_gradients(gradient, theirs):
    kernels = {
        ("rpn", "deltas"): theirs.rpn["head"].bbox_pred,
        ("boxes", "fc1"): theirs.roi_heads["box_head"]["fc6"],
        ("mask", "upsample"): theirs.roi_heads["mask_predictor"].conv5_mask,
        ("pyramid", "output1"): theirs.backbone["fpn"].layer_blocks[0][0],
    }
    for (part, name), module in kernels.items():
        found = gradient[part][name]["bias"]
        np.testing.assert_allclose(found, module.bias.grad, rtol=1e-7, atol=1e-12)
    stem = gradient["backbone"]["stem_conv"]["kernel"]
    assert (stem == 0).all()
    assert theirs.backbone["body"].conv1.weight.grad is None
    upsample = theirs.roi_heads["mask_predictor"].conv5_mask.weight.grad
    found = gradient["mask"]["upsample"]["kernel"].transpose(2, 3, 0, 1)
    np.testing.assert_allclose(found, upsample, rtol=1e-7, atol=1e-12)
    deep = theirs.backbone["body"].layer2[0].conv2.weight.grad
    assert deep.abs().max() > 0
