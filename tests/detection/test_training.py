"""Targets and losses of batches with images of unequal sizes and numbers of objects."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from aggnets_jax.detection import training
from aggnets_jax.detection.anchors import level_anchors
from aggnets_jax.detection.boxes import ROI_STDS, RPN_STDS
from aggnets_jax.detection.proposals import Proposals
from tests.detection import definition
from tests.detection.scenes import RECORDS, SEEDS, boxes, compiled, few

NUMBERS = training.SampleSizes(24, 8, 24, 8)
NUMBER = np.array([4, 1, 0])  # objects of the images; `boxes` makes the third like the first
SIZES = np.array([[60, 80], [64, 64], [40, 96]])


def batch(seed):
    """Return objects of three images, the last of them equal to the first, padded with one."""
    found = np.stack([boxes(seed + i, 5, size=SIZES[i], whole=True) for i in range(3)])
    found[0, 3] = found[0, 0]
    valid = np.arange(5) < NUMBER[:, None]
    labels = np.tile(np.arange(5, dtype=np.int32) % 4, (3, 1))
    return training.Objects(*map(jnp.asarray, (found, labels, valid)))


def keys(seed):
    return jax.random.split(jax.random.key(seed), 3)


def check(samples, image, candidates, assigned, objects, stds, name):
    """Compare the samples of an image with what is assigned to all candidates."""
    found = [np.asarray(each[image]) for each in samples]
    for index, box, positive, negative, own, label, deltas in zip(*found, strict=True):
        if not (positive or negative):
            continue
        np.testing.assert_array_equal(box, candidates[index])
        assert positive == (assigned[index] >= 0)
        assert negative == (assigned[index] == -1)
        if positive:
            assert own == assigned[index]
            assert label == objects.labels[image, own]
            wanted = definition.encode(np.asarray(objects.boxes[image, own]), box, stds, name)
            np.testing.assert_allclose(deltas, wanted, rtol=1e-9, atol=1e-9)
    count = [(assigned >= 0).sum(), (assigned == -1).sum()]
    assert found[2].sum() == min(count[0], 8)
    assert found[3].sum() == min(count[1], 24 - found[2].sum())


@pytest.mark.slow
@given(SEEDS)
@few
def test_sampled_anchors_have_the_targets_of_the_definition(seed):
    with jax.enable_x64(True):
        objects = batch(seed)
        for conventions in RECORDS:
            name = conventions.name
            anchors = level_anchors((64, 96), (16, 32), conventions, scale=2, dtype=jnp.float64)
            every = np.concatenate(anchors)
            sample = compiled(training.sample_anchors, conventions=conventions, numbers=NUMBERS)
            samples = sample(keys(seed), objects, anchors, jnp.asarray(SIZES))
            for image, (height, width) in enumerate(SIZES):
                allowed = np.ones(len(every), bool)
                if name != "torchvision":
                    allowed = (every[:, :2] >= 0).all(axis=1)
                    allowed &= (every[:, 2] < width) & (every[:, 3] < height)
                real = np.asarray(objects.boxes[image, : NUMBER[image]])
                table = definition.overlaps(real, every, name)
                low = (0.0, True) if name == "torchvision" else (0.3, False)
                assigned = definition.assign(table, allowed, 0.7, 0.3, *low)
                check(samples, image, every, assigned, objects, RPN_STDS, name)


@given(SEEDS)
@few
def test_sampled_rois_have_the_targets_of_the_definition(seed):
    random = np.random.default_rng(seed)
    with jax.enable_x64(True):
        objects = batch(seed)
        proposed = np.stack([boxes(seed + 9 + i, 30, size=SIZES[i], whole=True) for i in range(3)])
        # Near the objects, so that some overlap them enough.
        proposed[:, :15] = np.tile(objects.boxes, (1, 3, 1)) + random.integers(-3, 4, (3, 15, 4))
        real = np.tile(np.arange(30) < 28, (3, 1))
        proposals = Proposals(jnp.asarray(proposed), None, None, jnp.asarray(real))
        for conventions in RECORDS:
            name = conventions.name
            sample = compiled(training.sample_rois, conventions=conventions, numbers=NUMBERS)
            samples = sample(keys(seed), objects, proposals)
            for image, number in enumerate(NUMBER):
                truth = np.asarray(objects.boxes[image, :number])
                table = definition.overlaps(truth, proposed[image], name)
                least = 0.5 if name == "legacy" else None
                assigned = definition.assign(table, real[image], 0.5, 0.5, least, False)
                # In mmdetection an object's box is its own, in torchvision the first equal one's.
                own = np.where(np.arange(5) < number, np.arange(5), -2)
                if name == "torchvision" and number == 4:
                    own[2:4] = 0
                candidates = np.concatenate([objects.boxes[image], proposed[image]])
                assigned = np.concatenate([own, assigned])
                check(samples, image, candidates, assigned, objects, ROI_STDS, name)


def cross_entropy(logits, target):
    return np.log(1 + np.exp(logits)) - target * logits


def smooth(difference, beta):
    size = np.abs(difference)
    return np.where(size < beta, size * size / (2 * beta), size - beta / 2) if beta else size


def random_samples(random, slots):
    kind = random.integers(0, 3, (2, slots))
    kind[1] = np.minimum(kind[1], 1)  # without positives
    return training.Samples(
        jnp.asarray(np.stack([random.permutation(12)[:slots] for _ in range(2)])),
        None,
        jnp.asarray(kind == 2),
        jnp.asarray(kind == 1),
        jnp.zeros((2, slots), jnp.int32),
        jnp.asarray(random.integers(0, 3, (2, slots))),
        jnp.asarray(random.standard_normal((2, slots, 4))),
    )


@given(SEEDS)
@few
def test_losses_of_the_rpn_are_those_of_the_definition(seed):
    random = np.random.default_rng(seed)
    logits, deltas = random.standard_normal((2, 12)), random.standard_normal((2, 12, 4))
    with jax.enable_x64(True):
        samples = random_samples(random, 8)
        for conventions in RECORDS:
            found = training.rpn_losses(
                jnp.asarray(logits), jnp.asarray(deltas), samples, conventions
            )
            score = box = count = 0
            for image in range(2):
                kinds = np.asarray(samples.positive[image]), np.asarray(samples.negative[image])
                least = 0 if conventions.name == "torchvision" else 1
                count += sum(max(kind.sum(), least) for kind in kinds)
                for slot, index in enumerate(np.asarray(samples.index[image])):
                    if kinds[0][slot] or kinds[1][slot]:
                        score += cross_entropy(logits[image, index], float(kinds[0][slot]))
                    if kinds[0][slot]:
                        moved = deltas[image, index] - np.asarray(samples.deltas[image, slot])
                        box += smooth(moved, 1 / 9).sum()
            np.testing.assert_allclose(found["rpn_class"], score / max(count, 1), rtol=1e-9)
            np.testing.assert_allclose(found["rpn_box"], box / max(count, 1), rtol=1e-9)


@given(SEEDS)
@few
def test_losses_of_the_heads_are_those_of_the_definition(seed):
    random = np.random.default_rng(seed)
    with jax.enable_x64(True):
        samples = random_samples(random, 6)
        masks = random.integers(0, 2, (2, 1, 9, 9))
        objects = training.Objects(None, None, None, jnp.asarray(masks))
        whole = jnp.array([1.0, 1, 8, 8])
        samples = samples._replace(boxes=jnp.tile(whole, (2, 6, 1)))
        for conventions in RECORDS:
            name, outputs = conventions.name, conventions.outputs(3)
            logits = random.standard_normal((2, 6, 4))
            deltas = random.standard_normal((2, 6, outputs, 4))
            pictures = random.standard_normal((2, 6, outputs, 5, 5))
            of_boxes = compiled(training.roi_losses, num_classes=3, conventions=conventions)
            of_masks = compiled(training.mask_losses, conventions=conventions)
            found = of_boxes(jnp.asarray(logits), jnp.asarray(deltas), samples)
            found |= of_masks(jnp.asarray(pictures), samples, objects)
            first = 0 if name == "center" else 1  # column of the first class
            beta = {"legacy": 1.0, "center": 0.0, "torchvision": 1 / 9}[name]
            score, box, mask, count = 0, 0, [], 0
            for image, slot in np.ndindex(2, 6):
                positive = samples.positive[image, slot]
                if not (positive or samples.negative[image, slot]):
                    continue
                count += 1
                column = int(samples.labels[image, slot]) + first
                row = logits[image, slot]
                target = column if positive else (3 if name == "center" else 0)
                score += np.log(np.exp(row).sum()) - row[target]
                if positive:
                    moved = deltas[image, slot, column] - np.asarray(samples.deltas[image, slot])
                    box += smooth(moved, beta).sum()
                    wanted = definition.mask_target(masks[image, 0], np.asarray(whole), 5, name)
                    mask.append(cross_entropy(pictures[image, slot, column], wanted).mean())
            np.testing.assert_allclose(found["class"], score / max(count, 1), rtol=1e-9)
            np.testing.assert_allclose(found["box"], box / max(count, 1), rtol=1e-9)
            np.testing.assert_allclose(found["mask"], np.mean(mask) if mask else 0, rtol=1e-9)
