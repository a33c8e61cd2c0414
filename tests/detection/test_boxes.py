import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from aggnets_jax.detection.boxes import (
    MOST_SCALE,
    ROI_STDS,
    RPN_STDS,
    clip,
    decode,
    encode,
    inside,
    iou,
)
from tests.detection import definition
from tests.detection.scenes import RECORDS, SEEDS, boxes, few


@given(SEEDS)
@few
def test_decoding_inverts_encoding(seed):
    references, objects = boxes(seed, 12), boxes(seed + 1, 12)
    for conventions in RECORDS:
        with jax.enable_x64(True):
            deltas = encode(jnp.asarray(objects), jnp.asarray(references), ROI_STDS, conventions)
            decoded = decode(deltas, jnp.asarray(references), ROI_STDS, conventions)
        np.testing.assert_allclose(decoded, objects, rtol=1e-9, atol=1e-9)


@given(SEEDS)
@few
def test_the_coder_is_that_of_the_definition(seed):
    references, objects = boxes(seed, 12), boxes(seed + 1, 12)
    # Some of the deltas are beyond the bounds of dw and dh.
    deltas = np.random.default_rng(seed).standard_normal((12, 4)) * 4
    with jax.enable_x64(True):
        for conventions in RECORDS:
            for stds in (RPN_STDS, ROI_STDS):
                rest = (stds, conventions.name)
                given = jnp.asarray(references)
                encoded = encode(jnp.asarray(objects), given, stds, conventions)
                pairs = zip(objects, references, strict=True)
                wanted = [definition.encode(*pair, *rest) for pair in pairs]
                np.testing.assert_allclose(encoded, wanted, rtol=1e-9, atol=1e-9)
                decoded = decode(jnp.asarray(deltas), given, stds, conventions)
                pairs = zip(deltas, references, strict=True)
                wanted = [definition.decode(*pair, *rest) for pair in pairs]
                np.testing.assert_allclose(decoded, wanted, rtol=1e-9, atol=1e-9)
                clipped = clip(decoded, jnp.array([60, 80]), conventions)
                wanted = [definition.clip(box, (60, 80), conventions.name) for box in wanted]
                np.testing.assert_allclose(clipped, wanted, rtol=1e-9, atol=1e-9)


@given(SEEDS)
@few
def test_iou_is_that_of_the_definition_and_symmetric(seed):
    objects = boxes(seed, 10, whole=True)
    for conventions in RECORDS:
        found = np.asarray(iou(jnp.asarray(objects), jnp.asarray(objects), conventions))
        wanted = definition.overlaps(objects, objects, conventions.name)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found, found.T)
        np.testing.assert_array_equal(np.diag(found), 1)


@given(SEEDS)
@few
def test_clipping_twice_is_clipping_once(seed):
    objects = jnp.asarray(boxes(seed, 10)) * 2 - 30
    for conventions in RECORDS:
        size = jnp.array([60, 80])
        once = clip(objects, size, conventions)
        np.testing.assert_array_equal(clip(once, size, conventions), once)
        assert once.min() >= 0
        assert (once.max(axis=0) <= jnp.array([80, 60, 80, 60]) - conventions.extent).all()


def test_no_delta_gives_an_infinite_box():
    deltas, reference = jnp.full((1, 4), 1e4), jnp.array([[0.0, 0, 10, 10]])
    for conventions in RECORDS:
        grown = decode(deltas, reference, (1, 1, 1, 1), conventions)
        width, _ = conventions.sides(grown)
        side = 10 + conventions.extent
        assert width[0] == pytest.approx(side * np.exp(MOST_SCALE), rel=1e-4)
        assert jnp.isfinite(decode(-deltas, reference, ROI_STDS, conventions)).all()


def test_only_torchvision_lets_boxes_shrink_to_nothing():
    deltas, reference = jnp.full((1, 4), -10.0), jnp.array([[0.0, 0, 99, 99]])
    legacy, center, torchvision = (
        float(c.sides(decode(deltas, reference, (1, 1, 1, 1), c))[0][0]) for c in RECORDS
    )
    assert legacy == pytest.approx(100 * 16 / 1000, rel=1e-3)
    assert center == pytest.approx(99 * 16 / 1000, rel=1e-3)
    assert torchvision == pytest.approx(99 * np.exp(-10), abs=1e-3)


def test_degenerate_boxes_have_finite_deltas_and_no_overlap():
    empty, box = jnp.array([[5.0, 5, 5, 5]]), jnp.array([[0.0, 0, 10, 10]])
    for conventions in RECORDS[1:]:
        assert jnp.isfinite(encode(empty, box, ROI_STDS, conventions)).all()
        assert jnp.isfinite(encode(box, empty, ROI_STDS, conventions)).all()
        assert iou(empty, empty, conventions)[0, 0] == 0


def test_boxes_at_the_border_are_not_inside():
    borders = jnp.array([[0.0, 0, 79.5, 59.5], [0, 0, 80, 59], [0, 0, 79, 60], [-1, 0, 9, 9]])
    assert inside(borders, jnp.array([60, 80])).tolist() == [True, False, False, False]
