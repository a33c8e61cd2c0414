import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given

from aggnets_jax.detection.anchors import level_anchors
from aggnets_jax.detection.proposals import Limits, detect, limits, propose
from tests.detection.scenes import RECORDS, SEEDS, boxes, few, greedy

STRIDES = (8, 16)


def predictions(seed, padded=(32, 48)):
    random = np.random.default_rng(seed)
    anchors = level_anchors(padded, STRIDES, RECORDS[1])
    logits = [jnp.asarray(random.standard_normal(len(a)), jnp.float32) for a in anchors]
    deltas = [jnp.asarray(0.3 * random.standard_normal(a.shape), jnp.float32) for a in anchors]
    return logits, deltas, anchors


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
@few
def test_detections_are_those_of_nms_within_each_class(seed):
    random = np.random.default_rng(seed)
    proposals = boxes(seed, 20)
    scores = random.dirichlet(np.ones(4), 20)[:, 1:]
    found = detect(
        jnp.asarray(scores),
        jnp.zeros((20, 3, 4)),
        jnp.asarray(proposals),
        jnp.arange(20) < 18,
        jnp.array([60, 80]),
        RECORDS[1],
        most=60,
    )
    wanted = []
    for label in range(3):
        rows = [i for i in np.argsort(-scores[:18, label]) if scores[i, label] > 0.05]
        wanted += [(label, rows[i]) for i in greedy(proposals[rows], 0.5, 0)]
    number = int(found.valid.sum())
    assert number == len(wanted)
    pairs = zip(found.labels[:number].tolist(), found.scores[:number].tolist(), strict=True)
    np.testing.assert_allclose(
        sorted(pairs), sorted((label, scores[i, label]) for label, i in wanted), rtol=1e-5
    )
    assert (jnp.diff(found.scores) <= 0).all()


def test_candidates_that_are_left_out_are_counted():
    arguments = (jnp.full((6, 2), 0.5), jnp.zeros((6, 2, 4)), jnp.asarray(boxes(0, 6)))
    found = detect(*arguments, jnp.ones(6, bool), jnp.array([60, 80]), RECORDS[1], candidates=5)
    assert found.cut == 7
