import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given

from aggnets_jax.detection.anchors import level_anchors
from aggnets_jax.detection.proposals import Limits, detect, limits, propose
from tests.detection import definition
from tests.detection.scenes import RECORDS, SEEDS, boxes, compiled, few

STRIDES = (8, 16)


def predictions(seed, padded=(32, 48)):
    random = np.random.default_rng(seed)
    anchors = level_anchors(padded, STRIDES, RECORDS[1])
    logits = [jnp.asarray(random.standard_normal(len(a)), jnp.float32) for a in anchors]
    deltas = [jnp.asarray(0.3 * random.standard_normal(a.shape), jnp.float32) for a in anchors]
    return logits, deltas, anchors


@pytest.mark.slow
@given(SEEDS)
@few
def test_proposals_are_in_order_in_the_image_and_padded_at_the_end(seed):
    logits, deltas, anchors = predictions(seed)
    size = jnp.array([30, 44])
    for conventions in RECORDS:
        found = propose(logits, deltas, anchors, size, Limits(20, 12, 30), conventions)
        number = int(found.valid.sum())
        assert found.valid.tolist() == [True] * number + [False] * (len(found.valid) - number)
        assert (jnp.diff(found.logits[:number]) <= 0).all()
        assert found.boxes.min() >= 0
        assert (found.boxes.max(axis=0) <= jnp.array([44, 30, 44, 30])).all()
        assert np.bincount(found.levels[:number], minlength=2).max() <= 12
        width, height = conventions.sides(found.boxes[:number])
        assert min(width.min(), height.min()) >= conventions.least_side


@pytest.mark.slow
def test_no_gradient_flows_through_proposals():
    logits, deltas, anchors = predictions(0)

    def loss(deltas):
        size = jnp.array([30, 44])
        return propose(logits, deltas, anchors, size, Limits(20, None, 30), RECORDS[0]).boxes.sum()

    assert all((g == 0).all() for g in jax.grad(loss)(deltas))


def test_limits_are_those_of_the_phase():
    legacy, center, torchvision = RECORDS
    assert limits(legacy, train=True) == Limits(2000, 2000, 2000)
    assert limits(legacy, train=False) == Limits(1000, 1000, 1000)
    assert limits(center, train=True) == Limits(2000, None, 1000)
    assert limits(torchvision, train=False) == Limits(1000, None, 1000)


@given(SEEDS)
@example(134217727)  # with logits of 0 and -0, which are equal
@few
def test_proposals_are_those_of_the_loops(seed):
    random, size = np.random.default_rng(seed), (30, 44)
    with jax.enable_x64(True):
        for conventions in RECORDS:
            anchors = definition.anchors((32, 48), STRIDES, conventions.name)
            # Rounded, so that many are equal.
            logits = [random.standard_normal(len(a)).round(1) for a in anchors]
            deltas = [0.4 * random.standard_normal(a.shape) for a in anchors]
            post = 8 if conventions.post_nms else None
            inputs = ([jnp.asarray(x) for x in each] for each in (logits, deltas, anchors))
            bounds = Limits(15, post, 12, 0.5)
            read = compiled(propose, limits=bounds, conventions=conventions)
            found = read(*inputs, jnp.array(size))
            wanted = definition.propose(
                logits, deltas, anchors, size, conventions.name, 15, post, 12, 0.5
            )
            compare(found, (found.boxes, found.logits, found.levels), wanted)


def compare(found, columns, wanted):
    """Compare the real rows of columns with tuples."""
    assert int(found.valid.sum()) == len(wanted)
    for column, each in zip(columns, zip(*wanted, strict=True), strict=True):
        np.testing.assert_allclose(column[: len(wanted)], each, rtol=1e-9, atol=1e-9)


@given(SEEDS)
@few
def test_detections_are_those_of_the_loops(seed):
    random, proposals = np.random.default_rng(seed), boxes(seed, 20)
    for classes in (1, 3):
        scores = random.dirichlet(np.ones(classes + 1), 20)[:, 1:]
        deltas = random.standard_normal((20, classes, 4))
        with jax.enable_x64(True):
            for conventions in RECORDS:
                inputs = (jnp.asarray(each) for each in (scores, deltas, proposals))
                real, size = jnp.arange(20) < 18, jnp.array([60, 80])
                read = compiled(detect, conventions=conventions, most=10)
                found = read(*inputs, real, size)
                wanted = definition.detect(
                    scores[:18],
                    deltas[:18],
                    proposals[:18],
                    (60, 80),
                    conventions.name,
                    0.05,
                    0.5,
                    10,
                )
                compare(found, (found.boxes, found.scores, found.labels), wanted)


@pytest.mark.slow
def test_candidates_that_are_left_out_are_counted():
    arguments = (jnp.full((6, 2), 0.5), jnp.zeros((6, 2, 4)), jnp.asarray(boxes(0, 6)))
    found = detect(*arguments, jnp.ones(6, bool), jnp.array([60, 80]), RECORDS[1], candidates=5)
    assert found.cut == 7
