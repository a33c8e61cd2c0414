import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggnets_jax.detection.conventions import CENTER, LEGACY
from aggnets_jax.detection.nms import descending, nms
from tests.detection import definition
from tests.detection.scenes import SEEDS, boxes, few


@given(SEEDS, st.sampled_from([0.3, 0.5, 0.7]), st.sampled_from([LEGACY, CENTER]))
@few
def test_the_fixed_point_is_what_the_greedy_loop_keeps(seed, threshold, conventions):
    objects = boxes(seed, 50, size=(40, 40), whole=True)
    classes = np.random.default_rng(seed).integers(0, 3, 50)
    valid = jnp.ones(50, bool)
    keep = nms(jnp.asarray(objects), valid, threshold, conventions)
    falling = -np.arange(50)
    wanted = definition.nms(objects, falling, threshold, conventions.name)
    assert np.flatnonzero(keep).tolist() == wanted
    keep = nms(jnp.asarray(objects), valid, threshold, conventions, jnp.asarray(classes))
    wanted = definition.nms(objects, falling, threshold, conventions.name, classes)
    assert np.flatnonzero(keep).tolist() == wanted


def test_a_chain_of_suppressions_is_followed_to_its_end():
    # Each box overlaps the next alone, so that every second is kept.
    x = jnp.arange(64.0) * 4
    chain = jnp.stack([x, jnp.zeros(64), x + 10, jnp.full(64, 10.0)], axis=1)
    keep = nms(chain, jnp.ones(64, bool), 0.4, CENTER)
    np.testing.assert_array_equal(keep, np.arange(64) % 2 == 0)


def test_no_boxes_are_kept_of_none():
    nothing = jnp.zeros((0, 4)), jnp.zeros(0, bool)
    assert nms(*nothing, 0.5, CENTER).shape == (0,)
    index, real = descending(jnp.zeros(0), jnp.zeros(0, bool), 5)
    assert (index.shape, real.shape) == ((0,), (0,))


def test_padding_suppresses_nothing():
    same = jnp.tile(jnp.array([0.0, 0, 10, 10]), (3, 1))
    keep = nms(same, jnp.array([False, True, True]), 0.5, CENTER)
    assert keep.tolist() == [False, True, False]


@pytest.mark.slow
def test_mapped_over_images_nms_is_that_of_each():
    objects = jnp.stack([jnp.asarray(boxes(seed, 20, size=(30, 30))) for seed in range(4)])
    valid = jnp.ones((4, 20), bool)
    together = jax.vmap(lambda b, v: nms(b, v, 0.3, CENTER))(objects, valid)
    alone = [nms(b, v, 0.3, CENTER) for b, v in zip(objects, valid, strict=True)]
    np.testing.assert_array_equal(together, alone)


def test_equal_scores_are_in_the_order_of_their_index():
    scores, valid = jnp.array([1.0, 2, 2, 1, 3]), jnp.array([True, True, True, True, False])
    index, real = descending(scores, valid, 10)
    assert index[:4].tolist() == [1, 2, 0, 3]
    assert real.tolist() == [True] * 4 + [False]
