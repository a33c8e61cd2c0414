import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from aggnets_jax.detection.conventions import CENTER
from aggnets_jax.detection.masks import (
    binary_masks,
    cropped_targets,
    mask_targets,
    paste_binary,
    paste_masks,
)
from tests.detection import definition
from tests.detection.scenes import RECORDS, SEEDS, boxes, compiled, few


@given(SEEDS)
@few
def test_a_full_mask_has_full_targets_and_an_empty_one_empty_targets(seed):
    full = jnp.ones((1, 60, 80))
    # Within the image, so that no sample is beyond its border.
    rois, index = jnp.asarray(np.floor(boxes(seed, 5))), jnp.zeros(5, jnp.int32)
    with jax.enable_x64(True):
        for conventions in RECORDS:
            read = compiled(mask_targets, size=7, conventions=conventions)
            np.testing.assert_allclose(read(full, rois, index), 1, atol=1e-6)
            assert (read(0 * full, rois, index) == 0).all()


@given(SEEDS)
@few
def test_targets_are_those_of_the_loops(seed):
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:36, :44]
    masks = np.stack([(x - 20) ** 2 + (y - 9) ** 2 < 90, random.uniform(size=(36, 44)) < 0.6])
    rois, index = boxes(seed, 5, size=(36, 44)), np.array([0, 1, 0, 1, 1])
    rois[4, 2:] = rois[4, :2] + 0.6
    with jax.enable_x64(True):
        for conventions in RECORDS:
            read = compiled(mask_targets, size=7, conventions=conventions)
            found = read(*(jnp.asarray(each) for each in (masks.astype(int), rois, index)))
            wanted = [
                definition.mask_target(masks[i], roi, 7, conventions.name)
                for i, roi in zip(index, rois, strict=True)
            ]
            np.testing.assert_allclose(found, wanted, atol=1e-9)


@given(SEEDS)
@few
def test_pasted_masks_are_those_of_the_loops(seed):
    random = np.random.default_rng(seed)
    probabilities, objects = random.uniform(size=(4, 7, 7)), boxes(seed, 4, size=(30, 40))
    objects[1] -= [9, 2, 9, 2]
    objects[2, 2:] += 12
    for conventions in RECORDS:
        found = paste_masks(probabilities, objects, (30, 40), conventions)
        wanted = [
            definition.paste(mask, box, (30, 40), conventions.name)
            for mask, box in zip(probabilities, objects, strict=True)
        ]
        np.testing.assert_allclose(found, wanted, atol=1e-9)


@given(SEEDS)
@few
def test_a_target_of_a_whole_crop_is_the_crop(seed):
    random = np.random.default_rng(seed)
    masks = random.integers(0, 2, (2, 20, 24))
    roi = np.array([[3.0, 5, 10, 12]])  # 8x8 pixels with the last, 7x7 without
    for conventions in RECORDS:
        side = int(7 + conventions.extent)
        read = compiled(mask_targets, size=side, conventions=conventions)
        targets = read(jnp.asarray(masks), jnp.asarray(roi), jnp.array([1]))
        if conventions.mask_target != "soft":  # which samples between pixels
            np.testing.assert_array_equal(targets[0], masks[1, 5 : 5 + side, 3 : 3 + side])


@given(SEEDS)
@few
def test_pasted_masks_stay_in_their_boxes_and_fill_them(seed):
    objects = np.round(boxes(seed, 4))
    for conventions in RECORDS:
        pasted = paste_masks(np.ones((4, 7, 7)), objects, (60, 80), conventions)
        assert pasted.min() >= 0
        assert pasted.max() <= 1 + 1e-9
        binary = binary_masks(pasted, conventions)
        for mask, (x1, y1, x2, y2) in zip(binary, objects.astype(int), strict=True):
            inner = mask[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1]
            assert inner.all()
            mask[max(y1 - 2, 0) : y2 + 3, max(x1 - 2, 0) : x2 + 3] = False
            assert not mask.any()


@given(SEEDS)
@few
def test_a_mask_that_is_pasted_alone_is_the_same(seed):
    random = np.random.default_rng(seed)
    objects = np.concatenate([boxes(seed, 4), [[-5.0, -5, 5, 5], [200, 200, 300, 300]]])
    masks = random.uniform(size=(6, 7, 7))
    for conventions in RECORDS:
        wanted = binary_masks(paste_masks(masks, objects, (60, 80), conventions), conventions)
        for mask, box, each in zip(masks, objects, wanted, strict=True):
            found = paste_binary(mask, box, (60, 80), conventions)
            np.testing.assert_array_equal(found, each)


def test_boxes_beyond_the_image_and_without_a_side_can_be_pasted():
    objects = np.array([[-5.0, -5, 5, 5], [70, 50, 95, 75], [200, 200, 300, 300], [9, 9, 9, 9]])
    for conventions in RECORDS:
        pasted = paste_masks(np.ones((4, 7, 7)), objects, (60, 80), conventions)
        assert np.isfinite(pasted).all()
        assert pasted[0].any()
        assert pasted[1].any()
        assert not pasted[2].any()


@pytest.mark.slow
@given(SEEDS)
@few
def test_targets_of_cropped_masks_are_close_to_those_of_whole_masks(seed):
    random = np.random.default_rng(seed)
    whole = np.zeros((2, 60, 80), np.uint8)
    own = np.array([[10.0, 8, 42, 40], [30, 20, 70, 52]])
    crops = np.zeros((2, 112, 112), np.uint8)
    for mask, crop, (x1, y1, x2, y2) in zip(whole, crops, own.astype(int), strict=True):
        rows, columns = np.mgrid[y1:y2, x1:x2]
        centre = random.uniform(8, 24, 2)
        inside = np.hypot(rows - y1 - centre[0], (columns - x1 - centre[1]) / 1.5) < 12
        mask[y1:y2, x1:x2] = inside
        places = [((np.arange(112) + 0.5) * side / 112).astype(int) for side in inside.shape]
        crop[:] = inside[np.ix_(*places)]
    rois = own[[0, 1, 0]] + random.uniform(-4, 4, (3, 4))
    index = jnp.array([0, 1, 0])
    for conventions in RECORDS:
        # In legacy the last pixel belongs to a box.
        objects = own - [0, 0, conventions.extent, conventions.extent]
        arguments = (jnp.asarray(rois), index, 28, conventions)
        found = cropped_targets(jnp.asarray(crops), jnp.asarray(objects), *arguments)
        wanted = np.asarray(mask_targets(jnp.asarray(whole), *arguments))
        assert np.mean((np.asarray(found) >= 0.5) != (wanted >= 0.5)) < 0.02
        if conventions.mask_target == "soft":
            assert np.mean(np.abs(found - wanted)) < 0.01
    full = cropped_targets(
        jnp.ones((1, 9, 9)), jnp.asarray(own[:1]), jnp.asarray(own[:1]), index[:1], 5, CENTER
    )
    np.testing.assert_array_equal(full, np.ones((1, 5, 5)))
