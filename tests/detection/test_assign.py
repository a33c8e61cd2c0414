import jax.numpy as jnp
import numpy as np
from hypothesis import given

from aggnets_jax.detection.assign import (
    IGNORED,
    NEGATIVE,
    assign_anchors,
    assign_proposals,
    overlaps,
)
from tests.detection.scenes import RECORDS, SEEDS, boxes, few


def by_loops(overlap, allowed, positive, negative, least, own_best):
    """Return the assignment as mmdetection and torchvision write it."""
    found = []
    for candidate, column in enumerate(overlap.T):
        best = column.max()
        found.append(NEGATIVE if best < negative else IGNORED)
        if best >= positive:
            found[-1] = int(column.argmax())
        if not allowed[candidate]:
            found[-1] = IGNORED
    if least is not None:
        for index, row in enumerate(overlap):
            if row.max() < max(least, 0):
                continue
            for candidate in np.flatnonzero(row == row.max()):
                own = int(overlap[:, candidate].argmax())
                found[candidate] = own if own_best else index
    return found


@given(SEEDS)
@few
def test_assignments_are_those_of_the_loops(seed):
    objects, candidates = boxes(seed, 6, whole=True), boxes(seed + 1, 40, whole=True)
    candidates[:6] = objects
    random = np.random.default_rng(seed)
    valid, allowed = np.arange(6) < random.integers(0, 7), random.uniform(size=40) < 0.8
    for conventions in RECORDS:
        arguments = [jnp.asarray(x) for x in (objects, valid, candidates, allowed)]
        overlap = np.asarray(overlaps(*arguments, conventions))
        anchors = (0.7, 0.3, conventions.rpn_least_overlap, conventions.rpn_own_best)
        found = assign_anchors(*arguments, conventions).tolist()
        assert found == by_loops(overlap, allowed, *anchors)
        least = 0.5 if conventions.roi_low_quality else None
        found = assign_proposals(*arguments, conventions).tolist()
        assert found == by_loops(overlap, allowed, 0.5, 0.5, least, False)


def test_without_objects_all_candidates_are_negative():
    nothing, valid = jnp.zeros((5, 4)), jnp.zeros(5, bool)
    candidates, allowed = jnp.asarray(boxes(0, 9)), jnp.arange(9) < 7
    for conventions in RECORDS:
        for assign in (assign_anchors, assign_proposals):
            found = assign(nothing, valid, candidates, allowed, conventions)
            assert found.tolist() == [NEGATIVE] * 7 + [IGNORED] * 2


def test_the_later_of_equal_objects_takes_their_best_anchor():
    objects = jnp.array([[0.0, 0, 20, 20], [0, 0, 20, 20]])
    anchor, every = jnp.array([[0.0, 0, 20, 20]]), jnp.ones(2, bool)
    found = [assign_anchors(objects, every, anchor, every[:1], c)[0] for c in RECORDS]
    assert found == [1, 1, 0]
