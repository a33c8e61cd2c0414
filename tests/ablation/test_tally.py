"""Paired differences and their intervals."""

import numpy as np
import pytest
from scipy import stats

from aggnets_jax.ablation.tally import Tally
from tests.test_statistics import adjusted_wald


def test_sums_over_batches_are_those_of_the_examples():
    """Three changes, seen in parts of two and one, over batches whose last rows are no examples."""
    random = np.random.default_rng(1)
    there = np.arange(24) < 19
    before = {"correct": random.random(24) < 0.7, "loss": random.random(24).astype(np.float32)}
    after = {
        "correct": random.random((3, 24)) < 0.5,
        "loss": random.random((3, 24)).astype(np.float32) * 3,
    }
    tally = Tally(3)
    for rows in (slice(0, 8), slice(8, 16), slice(16, 24)):
        for changes in (slice(0, 2), slice(2, 3)):
            tally.add(
                changes,
                {name: values[rows] for name, values in before.items()},
                {name: values[changes, rows] for name, values in after.items()},
                there[rows],
            )
    assert tally.examples == 19
    right, loss = before["correct"][:19], before["loss"][:19].astype(float)
    for number, measured in enumerate(tally.measurements()):
        now, new = after["correct"][number, :19], after["loss"][number, :19].astype(float)
        cells = [[sum((right == a) & (now == b)) for b in (True, False)] for a in (True, False)]
        assert (measured.lost, measured.gained) == (cells[0][1], cells[1][0])
        assert measured.accuracy == pytest.approx(now.mean(), abs=1e-15)
        assert measured.delta == pytest.approx(now.mean() - right.mean(), abs=1e-15)
        assert (measured.ci_low, measured.ci_high) == pytest.approx(adjusted_wald(cells))
        assert measured.loss == pytest.approx(new.mean(), rel=1e-12)
        assert measured.loss_delta == pytest.approx((new - loss).mean(), rel=1e-12)
        expected = stats.ttest_1samp(new - loss, 0).confidence_interval(0.95)
        ours = (measured.loss_ci_low, measured.loss_ci_high)
        assert ours == pytest.approx((expected.low, expected.high), rel=1e-10)


def test_small_differences_of_large_losses_are_kept():
    """Sums in float32 would lose them."""
    tally, rows = Tally(1), 1000
    zeros = np.zeros(rows, bool)
    before = {"correct": zeros, "loss": np.full(rows, 1000, np.float32)}
    after = {"correct": zeros[None], "loss": np.full((1, rows), 1000 + 2**-13, np.float32)}
    for _ in range(20):
        tally.add(slice(0, 1), before, after, ~zeros)
    (measured,) = tally.measurements()
    assert measured.loss_delta == 2**-13
