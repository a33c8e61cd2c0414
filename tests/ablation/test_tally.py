"""Paired differences and their intervals."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from aggnets_jax.ablation.tally import Tally
from aggnets_jax.statistics import accuracy_change_interval, mean_interval


def adjusted_wald(cells):
    """Wald's interval of the difference of two matched proportions, of cells with 0.5 added."""
    cells = np.asarray(cells, float) + 0.5
    n = cells.sum()
    p = cells / n
    before, after = p[0].sum(), p[:, 0].sum()
    variances = before * (1 - before) + after * (1 - after)
    covariance = p[0, 0] * p[1, 1] - p[0, 1] * p[1, 0]
    half = stats.norm.ppf(0.975) * math.sqrt((variances - 2 * covariance) / n)
    return after - before - half, after - before + half


@pytest.mark.parametrize("cells", [[[340, 18], [1, 1]], [[0, 0], [5, 7]], [[9, 0], [0, 0]]])
def test_the_interval_of_a_change_of_accuracy(cells):
    (_, lost), (gained, _) = cells
    ours = accuracy_change_interval(lost, gained, np.sum(cells))
    np.testing.assert_allclose(ours, adjusted_wald(cells), rtol=1e-12)
    assert ours[0] < (gained - lost) / np.sum(cells) < ours[1]


def test_intervals_of_accuracy_stay_within_bounds():
    for lost, gained in itertools.product((0, 3), (0, 3)):
        low, high = accuracy_change_interval(lost, gained, 6)
        assert -1 <= low < high <= 1
    assert accuracy_change_interval(4, 0, 4)[0] == -1


@pytest.mark.parametrize("discordant", [(0.05, 0.01), (0.3, 0.2)])
def test_the_interval_covers_the_true_change_as_often_as_it_says(discordant):
    """Agresti and Min find about 95 % or more for samples from 10 on."""
    lost, gained = discordant
    drawn = np.random.default_rng(0).multinomial(60, [lost, gained, 1 - lost - gained], 4000)
    intervals = [accuracy_change_interval(b, c, 60) for b, c, _ in drawn]
    covered = np.mean([low <= gained - lost <= high for low, high in intervals])
    assert 0.94 < covered < 0.985


def test_the_interval_of_a_mean_is_students():
    values = np.random.default_rng(0).normal(0.3, 2, 50)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    ours = mean_interval(values.sum(), (values**2).sum(), 50)
    np.testing.assert_allclose(ours, expected, rtol=1e-10)
    assert all(map(math.isnan, mean_interval(1.0, 1.0, 1)))
    # Of equal values, whose variance comes out below 0.
    assert mean_interval(0.1 + 0.1 + 0.1, 0.03, 3) == pytest.approx((0.1, 0.1), rel=1e-6)


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
    """As float32 sums would lose them."""
    tally, rows = Tally(1), 1000
    zeros = np.zeros(rows, bool)
    before = {"correct": zeros, "loss": np.full(rows, 1000, np.float32)}
    after = {"correct": zeros[None], "loss": np.full((1, rows), 1000 + 2**-13, np.float32)}
    for _ in range(20):
        tally.add(slice(0, 1), before, after, ~zeros)
    (measured,) = tally.measurements()
    assert measured.loss_delta == 2**-13
