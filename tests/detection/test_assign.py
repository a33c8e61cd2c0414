import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given

from aggnets_jax.detection.assign import IGNORED, NEGATIVE, assign_anchors, assign_proposals
from tests.detection import definition
from tests.detection.scenes import RECORDS, SEEDS, boxes, few


@given(SEEDS)
@few
def test_assignments_are_those_of_the_loops(seed):
    # Whole numbers and copies make IoUs that are equal.
    objects, candidates = boxes(seed, 6, whole=True), boxes(seed + 1, 40, whole=True)
    candidates[:6] = objects
    random = np.random.default_rng(seed)
    number = random.integers(0, 7)
    valid, allowed = np.arange(6) < number, random.uniform(size=40) < 0.8
    arguments = [jnp.asarray(x) for x in (objects, valid, candidates, allowed)]
    with jax.enable_x64(True):
        for conventions in RECORDS:
            table = definition.overlaps(objects[:number], candidates, conventions.name)
            torchvision = conventions.name == "torchvision"
            rule = (0.7, 0.3, 0.0 if torchvision else 0.3, torchvision)
            found = assign_anchors(*arguments, conventions)
            np.testing.assert_array_equal(found, definition.assign(table, allowed, *rule))
            rule = (0.5, 0.5, 0.5 if conventions.name == "legacy" else None, False)
            found = assign_proposals(*arguments, conventions)
            np.testing.assert_array_equal(found, definition.assign(table, allowed, *rule))


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
