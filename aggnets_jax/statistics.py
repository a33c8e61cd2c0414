"""Confidence intervals and tests, for all that compares runs and evaluations.

SciPy's statistics take half a second to import, so each function imports them.
"""

import math
import statistics
from collections.abc import Sequence

LEVEL = 0.95
_Z = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2)


def accuracy_interval(lost: int, gained: int, examples: int) -> tuple[float, float]:
    """The 95 % confidence interval of a change of accuracy (Agresti and Min 2005).

    Its middle is nearer to 0 than the change itself, (gained - lost) / (examples + 2), so that it
    has a width even where no example changes.

    Args:
      lost: examples right before and wrong after.
      gained: examples wrong before and right after.
      examples: all of them, at least 1.
    """
    n = examples + 2
    middle = (gained - lost) / n
    half = _Z * math.sqrt(((lost + gained + 1) / n - middle**2) / n)
    return max(-1.0, middle - half), min(1.0, middle + half)


def mean_interval(total: float, squares: float, examples: int) -> tuple[float, float]:
    """The 95 % confidence interval of a mean, by Student's t distribution.

    Args:
      total: sum of the values.
      squares: sum of their squares.
      examples: how many values there are; of one alone the interval is NaN.
    """
    if examples < 2:
        return math.nan, math.nan
    from scipy import stats

    mean = total / examples
    variance = max(0.0, squares - total * mean) / (examples - 1)
    half = float(stats.t.ppf((1 + LEVEL) / 2, examples - 1)) * math.sqrt(variance / examples)
    return mean - half, mean + half


def mean_and_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, standard deviation, and half the width of the mean's 95 % confidence interval.

    The interval is that of Student's t distribution; of one value both widths are NaN.
    """
    if len(values) < 2:
        return values[0], math.nan, math.nan
    from scipy import stats

    deviation = statistics.stdev(values)
    half = stats.t.ppf(0.975, len(values) - 1) * deviation / math.sqrt(len(values))
    return statistics.fmean(values), deviation, float(half)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Corrects p-values of several tests so that any false finding has the stated probability.

    Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979):
    the i-th smallest of m is multiplied by m - i + 1; none gets smaller than one before it. A test
    without a p-value counts in m.
    """
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    known = [i for i, p in enumerate(p_values) if p is not None]
    for rank, i in enumerate(sorted(known, key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def wilson_interval(accuracy: float, examples: int) -> tuple[float, float]:
    """The 95 % confidence interval of an accuracy in 0..1 over as many independent examples."""
    from scipy import stats

    right = round(accuracy * examples)
    interval = stats.binomtest(right, examples).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
