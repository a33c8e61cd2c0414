"""What a change does to each example, summed up: paired differences with confidence intervals.

A network is evaluated before and after a change on the same examples, so that only those count on
which the two differ:

                    after: right   wrong
    before: right        a           b          change of the accuracy  (c - b) / n
            wrong        c           d

Its interval is the adjusted Wald interval of Agresti and Min, "Simple improved confidence intervals
for comparing matched proportions", Statistics in Medicine 24 (2005), pp. 729-740: Wald's with 0.5
added to each of the four cells. That of the change of the loss is Student's, of the mean of the
examples' differences. Both cover 95 %, each for itself.
"""

from typing import NamedTuple

import numpy as np

from aggnets_jax.statistics import accuracy_change_interval, mean_interval


class Measurement(NamedTuple):
    """A network after a change, compared with what it was, over the examples of a data set.

    Attributes:
      accuracy: after the change, in 0..1.
      delta: by which the accuracy has changed, with the ends of its confidence interval.
      ci_low: lower end.
      ci_high: upper end.
      loss: mean cross entropy after the change.
      loss_delta: by which the loss has changed, with the ends of its confidence interval.
      loss_ci_low: lower end.
      loss_ci_high: upper end.
      lost: examples that were right before and are wrong after.
      gained: examples that were wrong before and are right after.
    """

    accuracy: float
    delta: float
    ci_low: float
    ci_high: float
    loss: float
    loss_delta: float
    loss_ci_low: float
    loss_ci_high: float
    lost: int
    gained: int


class Tally:
    """Sums over examples, of several changes at once; in float64, as losses of float32 come in.

    Args:
      changes: how many there are.
    """

    def __init__(self, changes: int) -> None:
        self._examples = np.zeros(changes, np.int64)
        self._correct, self._lost, self._gained = np.zeros((3, changes), np.int64)
        self._loss, self._difference, self._squares = np.zeros((3, changes))

    def add(
        self,
        changes: slice,
        before: dict[str, np.ndarray],
        after: dict[str, np.ndarray],
        there: np.ndarray,
    ) -> None:
        """Adds the examples of a batch [B] for some of the changes [M].

        Args:
          changes: which they are.
          before: `correct` (bool) and `loss` [B], without any change.
          after: the same of each change, [M, B].
          there: bool [B], False for rows that are no example; what these hold does not count.
        """
        right, now_right = before["correct"][there], after["correct"][:, there]
        loss = after["loss"][:, there].astype(np.float64)
        with np.errstate(invalid="ignore"):  # of losses that are not finite
            difference = loss - before["loss"][there].astype(np.float64)
        self._examples[changes] += there.sum()
        self._correct[changes] += now_right.sum(axis=1)
        self._lost[changes] += (right & ~now_right).sum(axis=1)
        self._gained[changes] += (~right & now_right).sum(axis=1)
        self._loss[changes] += loss.sum(axis=1)
        self._difference[changes] += difference.sum(axis=1)
        self._squares[changes] += (difference**2).sum(axis=1)

    @property
    def examples(self) -> int:
        """How many were added, of each change equally many."""
        return int(self._examples[0])

    def measurements(self) -> list[Measurement]:
        """One of each change; there must be examples."""
        sums = (self._correct, self._lost, self._gained)
        losses = (self._loss, self._difference, self._squares)
        return [self._measurement(*numbers) for numbers in zip(*sums, *losses, strict=True)]

    def _measurement(
        self, correct: int, lost: int, gained: int, loss: float, change: float, squares: float
    ) -> Measurement:
        n = self.examples
        return Measurement(
            float(correct / n),
            float((gained - lost) / n),
            *accuracy_change_interval(int(lost), int(gained), n),
            float(loss / n),
            float(change / n),
            *mean_interval(float(change), float(squares), n),
            int(lost),
            int(gained),
        )
