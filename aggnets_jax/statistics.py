"""Confidence intervals and paired tests.

    accuracy_interval         one accuracy, from the examples of one evaluation (Wilson)
    accuracy_change_interval  change of accuracy between two evaluations of the same examples
                              (Agresti and Min)
    mean_interval             mean of numbers, from their sums, such as losses (Student)
    mean_and_interval         mean of a few numbers, such as errors of several seeds (Student)
    paired_p_values, holm     tests whether differences of pairs are zero, and their correction

All intervals cover 95 %, each by itself. SciPy's statistics take half a second to import, so each
function imports them.
"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEVEL = 0.95

LEAST_RANKED = 6
"""Pairs that the signed-rank test needs: with five, no p-value is below 2 / 2**5 > 0.05."""

_Z = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2)


def accuracy_interval(accuracy: float, examples: int) -> tuple[float, float]:
    """Return the interval of an accuracy over at least one independent example, both in 0..1.

    Wilson, "Probable inference, the law of succession, and statistical inference", J. Am. Stat.
    Assoc. 22 (1927): within 0..1 and not of width 0 where all examples are right.
    """
    from scipy import stats

    test = stats.binomtest(round(accuracy * examples), examples)
    interval = test.proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def accuracy_change_interval(lost: int, gained: int, examples: int) -> tuple[float, float]:
    """Return the interval of the change of accuracy (gained - lost) / examples, in -1..1.

    `lost` examples were right before and are wrong after; `gained` ones the other way round.

    Adjusted Wald interval of Agresti and Min, "Simple improved confidence intervals for comparing
    matched proportions", Statistics in Medicine 24 (2005): Wald's with 0.5 added to each of the
    four counts right or wrong, before or after. Its middle is (gained - lost) / (examples + 2), and
    it has a width even where no example changes.
    """
    n = examples + 2
    middle = (gained - lost) / n
    half = _Z * math.sqrt(((lost + gained + 1) / n - middle**2) / n)
    return max(-1.0, middle - half), min(1.0, middle + half)


def mean_interval(total: float, squares: float, count: int) -> tuple[float, float]:
    """Return the interval of a mean from the sums of the values and of their squares.

    Student's t distribution; the interval of a single value is NaN.
    """
    if count < 2:
        return math.nan, math.nan
    mean = total / count
    variance = max(0.0, squares - total * mean) / (count - 1)
    half = _student(count) * math.sqrt(variance / count)
    return mean - half, mean + half


def mean_and_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return mean, standard deviation, and half the width of the mean's interval.

    Student's t distribution; both widths of a single value are NaN.
    """
    if len(values) < 2:
        return values[0], math.nan, math.nan
    deviation = statistics.stdev(values)
    half = _student(len(values)) * deviation / math.sqrt(len(values))
    return statistics.fmean(values), deviation, half


def _student(count: int) -> float:
    """Return half the width of a mean's interval in standard errors of `count` values."""
    from scipy import stats

    return float(stats.t.ppf((1 + LEVEL) / 2, count - 1))


class PValues(NamedTuple):
    """Two-sided p-values of the hypothesis that differences are zero.

    The paired t test has none (None) if all differences are alike; Wilcoxon's signed-rank test has
    none for fewer than `LEAST_RANKED` pairs, and if all differences are zero.
    """

    t: float | None
    wilcoxon: float | None


def paired_p_values(differences: Sequence[float]) -> PValues:
    """Test whether the differences of at least two pairs are zero."""
    from scipy import stats

    t = wilcoxon = None
    if np.ptp(differences) > 0:
        t = float(stats.ttest_1samp(differences, 0).pvalue)
    if len(differences) >= LEAST_RANKED and np.any(differences):
        wilcoxon = float(stats.wilcoxon(differences).pvalue)
    return PValues(t, wilcoxon)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for the number of tests.

    Where they are at most alpha, rejecting the hypotheses has a probability of at most alpha of at
    least one false rejection, whichever hypotheses are true.

    Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979):
    the i-th smallest of m is multiplied by m - i + 1, and is at least the one before it. A test
    without a p-value counts in m.
    """
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    known = [i for i, p in enumerate(p_values) if p is not None]
    for rank, i in enumerate(sorted(known, key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected
