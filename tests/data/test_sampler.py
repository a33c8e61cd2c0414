"""EpochSampler: each example once an epoch, and a pure function of (seed, step)."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aggnets_jax.data import EpochSampler

sizes = st.integers(1, 40)


@given(num_examples=sizes, batch_size=sizes, seed=st.integers(0, 2**40))
def test_every_example_comes_once_an_epoch(num_examples, batch_size, seed):
    sampler = EpochSampler(num_examples, seed)
    steps = -(-3 * num_examples // batch_size)
    batches = [sampler.batch(step, batch_size) for step in range(steps)]
    epochs, index = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert np.array_equal(epochs, np.arange(steps * batch_size) // num_examples)
    for epoch in range(3):
        assert np.array_equal(np.sort(index[epochs == epoch]), np.arange(num_examples))


@given(num_examples=sizes, batch_size=sizes, step=st.integers(0, 10**7))
def test_a_batch_does_not_depend_on_the_ones_before(num_examples, batch_size, step):
    fresh = EpochSampler(num_examples, 3).batch(step, batch_size)
    used = EpochSampler(num_examples, 3)
    for earlier in (0, step // 2, max(step - 1, 0)):
        used.batch(earlier, batch_size)
    for ours, theirs in zip(fresh, used.batch(step, batch_size), strict=True):
        assert ours.dtype == np.int32
        assert np.array_equal(ours, theirs)


def test_order_changes_with_seed_and_epoch():
    first = EpochSampler(50, 0)
    orders = [first.batch(0, 50)[1], first.batch(1, 50)[1], EpochSampler(50, 1).batch(0, 50)[1]]
    assert len({order.tobytes() for order in orders}) == 3
