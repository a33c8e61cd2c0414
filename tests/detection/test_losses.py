import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggnets_jax.detection import losses
from tests.detection.scenes import few


@given(st.floats(-5, 5), st.sampled_from([1 / 9, 0.5, 1.0]))
@few
def test_smooth_l1_is_smooth_and_at_most_l1(difference, beta):
    value = losses.smooth_l1(jnp.float32(difference), beta)
    assert 0 <= value <= abs(difference) + 1e-6
    slope = jax.grad(losses.smooth_l1)(jnp.float32(difference), beta)
    assert slope == pytest.approx(np.clip(difference / beta, -1, 1), abs=1e-4)
    assert losses.smooth_l1(jnp.float32(difference), 0) == pytest.approx(abs(difference), rel=1e-6)


def test_without_positive_samples_losses_and_gradients_are_finite_and_0():
    nothing = jnp.zeros(4, bool)

    def loss(deltas, logits):
        box = losses.box_loss(deltas, jnp.full((4, 4), jnp.nan), nothing, 1, 1.0)
        return box + losses.mask_loss(logits, jnp.zeros((4, 2, 2)), nothing)

    arguments = (jnp.ones((4, 4)), jnp.ones((4, 2, 2)))
    assert loss(*arguments) == 0
    for gradient in jax.grad(loss, argnums=(0, 1))(*arguments):
        assert (gradient == 0).all()
    assert losses.roi_class_loss(jnp.ones((4, 3)), jnp.zeros(4, jnp.int32), nothing) == 0


def test_an_image_without_a_kind_of_samples_counts_one_of_them_in_mmdetection():
    positive, negative = jnp.array([0, 3]), jnp.array([5, 0])
    assert losses.count_samples(positive, negative, counts_empty=True) == 10
    assert losses.count_samples(positive, negative, counts_empty=False) == 8
    assert losses.count_samples(positive * 0, negative * 0, counts_empty=False) == 1


def test_own_class_is_the_column_of_each_row():
    outputs = jnp.arange(24).reshape(3, 4, 2)
    found = losses.own_class(outputs, jnp.array([0, 3, 9]))
    np.testing.assert_array_equal(found, [outputs[0, 0], outputs[1, 3], outputs[2, 3]])
