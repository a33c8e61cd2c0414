"""Which examples a training step sees: a pure function of (seed, step, batch size)."""

import functools

import numpy as np


class EpochSampler:
    """Shuffled passes over N examples, each example exactly once an epoch.

    Batches have a constant size and run on across the end of an epoch: place i of step s is at
    p = s * batch_size + i, in epoch p // N, at place p % N of that epoch's permutation. So N need
    not be divisible by the batch size, and a batch may be larger than N.
    """

    def __init__(self, num_examples: int, seed: int) -> None:
        self._num_examples = num_examples
        self._seed = seed
        # Two: a batch that runs on into the next epoch needs both.
        self._permutation = functools.lru_cache(maxsize=2)(self._shuffle)

    def _shuffle(self, epoch: int) -> np.ndarray:
        order = np.random.default_rng([self._seed, epoch]).permutation(self._num_examples)
        return order.astype(np.int32)

    def batch(self, step: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the epochs and the example numbers of a step's batch, both int32 [batch_size]."""
        epochs, places = np.divmod(
            np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64),
            self._num_examples,
        )
        index = np.empty(batch_size, np.int32)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            of_epoch = epochs == epoch
            index[of_epoch] = self._permutation(epoch)[places[of_epoch]]
        return epochs.astype(np.int32), index
