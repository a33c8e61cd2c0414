"""Confidence intervals and tests against SciPy, and against their definitions."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from aggnets_jax.statistics import (
    accuracy_change_interval,
    accuracy_interval,
    holm,
    mean_and_interval,
    mean_interval,
    paired_p_values,
)


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


def test_both_intervals_of_a_mean_are_the_same():
    values = np.random.default_rng(1).normal(0.3, 2, 7).tolist()
    mean, deviation, half = mean_and_interval(values)
    ends = mean_interval(sum(values), sum(value**2 for value in values), 7)
    np.testing.assert_allclose((mean - half, mean + half), ends, rtol=1e-10)
    assert deviation == pytest.approx(np.std(values, ddof=1))
    assert mean_and_interval([3.0])[0] == 3 and all(map(math.isnan, mean_and_interval([3.0])[1:]))


def test_intervals_are_wilsons():
    for right, n in ((0, 10), (357, 360), (50, 100)):
        z, p = 1.959963984540054, right / n
        centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        assert np.allclose(
            accuracy_interval(right / n, n), (centre - half, centre + half), atol=1e-12
        )


@pytest.mark.parametrize("pairs", [2, 5, 6])
def test_paired_tests_need_differences_and_enough_pairs(pairs):
    before, after = np.random.default_rng(2).normal(size=(2, pairs))
    found = paired_p_values(after - before)
    assert found.t == pytest.approx(stats.ttest_rel(after, before).pvalue)
    ranked = None if pairs < 6 else pytest.approx(stats.wilcoxon(after, before).pvalue)
    assert found.wilcoxon == ranked
    assert paired_p_values([0.0] * pairs) == (None, None)
    assert paired_p_values([0.5] * pairs).t is None


def test_holm_against_its_definition():
    # By hand: 4 x .01, 3 x .02, 2 x .03, and the largest as the one before it.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, None, 0.4]) == [1.0, None, 1.0]
    assert holm([0.01, None]) == [0.02, None]
    random = np.random.default_rng(0)
    for _ in range(50):
        p = random.uniform(size=random.integers(1, 8)) ** 2
        corrected = holm(p.tolist())
        for level in (0.01, 0.05, 0.2):
            rejected = set()
            for rank, i in enumerate(np.argsort(p)):  # as the paper has it: until one is not
                if p[i] > level / (len(p) - rank):
                    break
                rejected.add(i)
            assert {i for i, value in enumerate(corrected) if value <= level} == rejected
