from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from aggnets_jax.data.objects.order import BatchOrder


@given(
    buckets=st.lists(st.integers(0, 2), min_size=1, max_size=30),
    batch_size=st.integers(1, 7),
    seed=st.integers(0, 99),
)
@settings(max_examples=50, deadline=None)
def test_each_image_comes_once_an_epoch_in_batches_of_one_size(buckets, batch_size, seed):
    buckets = np.array(buckets)
    order = BatchOrder(buckets, batch_size, seed)
    epochs = 12
    batches = [order.batch(step) for step in range(epochs * len(buckets) // batch_size)]
    seen = Counter()
    for batch in batches:
        assert len(batch.index) == batch_size
        assert (buckets[batch.index] == batch.bucket).all()
        seen.update(zip(batch.epochs.tolist(), batch.index.tolist(), strict=True))
    assert set(seen.values()) <= {1}
    # What a bucket has too few images for waits; nothing is passed over.
    for bucket in np.unique(buckets):
        members = np.flatnonzero(buckets == bucket).tolist()
        last = max((epoch for epoch, index in seen if index in members), default=0)
        assert all((epoch, index) in seen for epoch in range(last) for index in members)


def test_a_batch_depends_on_seed_and_step_alone():
    buckets = np.arange(50) % 3
    first = BatchOrder(buckets, 4, 7)
    steps = [first.batch(step) for step in range(60)]
    alone = BatchOrder(buckets, 4, 7).batch(41)
    np.testing.assert_array_equal(alone.index, steps[41].index)
    np.testing.assert_array_equal(alone.epochs, steps[41].epochs)
    other = BatchOrder(buckets, 4, 8).batch(41)
    assert other.index.tolist() != alone.index.tolist()
    epochs = [{tuple(b.index) for b in steps if set(b.epochs) == {e}} for e in (0, 1)]
    assert epochs[0] != epochs[1]
