"""The effect of a change on the examples: paired differences with confidence intervals.

A network is evaluated before and after a change on the same examples. Only examples on which the
two differ change the accuracy:

                    after: right   wrong
    before: right        a           b          change of the accuracy  (c - b) / n
            wrong        c           d

The intervals come from `statistics.accuracy_change_interval` and, for the mean difference of the
losses, from `statistics.mean_interval`. Each covers 95 % by itself.
"""

from typing import NamedTuple

import numpy as np

from aggnets_jax.statistics import accuracy_change_interval, mean_interval

COLUMNS = ("accuracy", "delta", "ci_low", "ci_high", "loss")
"""The fields of a `Measurement` in CSV files, after the columns that name the change."""
BOX_COLUMNS = ("bbox_AP", "delta", "bbox_AP50")
MASK_COLUMNS = ("segm_AP", "segm_delta", "segm_AP50")
"""The fields of detectors there, see `detectors.Precision`, and those of detectors with masks."""


class Measurement(NamedTuple):
    """A network after a change, compared with the network before it, over a data set.

    Attributes:
      accuracy: after the change, in 0..1.
      delta: change of the accuracy, with its confidence interval, `ci_low` to `ci_high`.
      loss: mean cross entropy after the change.
      loss_delta: change of the loss, with its confidence interval.
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
    """Sums over examples for several changes at once, in float64."""

    def __init__(self, changes: int) -> None:
        """Start with no examples for this number of changes."""
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
        """Add the examples of a batch [B] for some of the changes [M].

        Args:
          changes: their numbers.
          before: `correct` (bool) and `loss` (float) [B], without any change.
          after: the same for each change, [M, B].
          there: bool [B], False for rows that are no example and don't count.
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
        """Number of examples, the same for each change."""
        return int(self._examples[0])

    def measurements(self) -> list[Measurement]:
        """Return the measurement of each change over at least one example."""
        n = self.examples
        counts = (self._correct.tolist(), self._lost.tolist(), self._gained.tolist())
        sums = (self._loss.tolist(), self._difference.tolist(), self._squares.tolist())
        return [
            Measurement(
                correct / n,
                (gained - lost) / n,
                *accuracy_change_interval(lost, gained, n),
                loss / n,
                change / n,
                *mean_interval(change, squares, n),
                lost,
                gained,
            )
            for correct, lost, gained, loss, change, squares in zip(*counts, *sums, strict=True)
        ]
