"""The order of images in training: batches of one padded size, every image once an epoch.

The order of the images in an epoch depends on (seed, epoch). Each image goes to the bucket of its
padded size, and a bucket that has enough images for a batch gives it. Images that are left at the
end of an epoch stay in their buckets. The batch of a step is therefore a function of (seed, step),
computed without the steps before it.
"""

import functools
from typing import NamedTuple

import numpy as np


class BatchOfStep(NamedTuple):
    """The images of a batch.

    Attributes:
      bucket: number of the bucket.
      epochs: epoch of each image, int64 [batch].
      index: place of each image in the split, int64 [batch].
    """

    bucket: int
    epochs: np.ndarray
    index: np.ndarray


class BatchOrder:
    """Batches by step.

    Args:
      buckets: bucket of each image, int [N].
      batch_size: images of a batch, over all processes.
      seed: seed of the order, at least 0.
    """

    def __init__(self, buckets: np.ndarray, batch_size: int, seed: int) -> None:
        self._buckets = np.asarray(buckets)
        self._sizes = np.bincount(self._buckets)
        self._batch_size = batch_size
        self._seed = seed
        self._members = functools.lru_cache(maxsize=8)(self._shuffled)
        self._ends = functools.lru_cache(maxsize=1)(self._batches_of_epoch)

    def batch(self, step: int) -> BatchOfStep:
        """Return the batch of a step, counted from 0."""
        epoch = step * self._batch_size // len(self._buckets)
        while self._batches_before(epoch + 1) <= step:
            epoch += 1
        bucket, number = self._ends(epoch)[step - self._batches_before(epoch)]
        ranks = number * self._batch_size + np.arange(self._batch_size)
        epochs, places = np.divmod(ranks, self._sizes[bucket])
        found = zip(epochs.tolist(), places.tolist(), strict=True)
        index = [self._members(epoch)[bucket][place] for epoch, place in found]
        return BatchOfStep(bucket, epochs, np.array(index))

    def _batches_before(self, epoch: int) -> int:
        """Return how many batches are full before an epoch begins."""
        return int((epoch * self._sizes // self._batch_size).sum())

    def _shuffled(self, epoch: int) -> list[np.ndarray]:
        """Return the images of each bucket in the order of an epoch."""
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._buckets))
        return [order[self._buckets[order] == bucket] for bucket in range(len(self._sizes))]

    def _batches_of_epoch(self, epoch: int) -> list[tuple[int, int]]:
        """Return the batches that become full in an epoch, in order: buckets, numbers in these."""
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._buckets))
        full = []
        for bucket, size in enumerate(self._sizes):
            places = np.flatnonzero(self._buckets[order] == bucket)
            first, end = epoch * size // self._batch_size, (epoch + 1) * size // self._batch_size
            last_ranks = (np.arange(first, end) + 1) * self._batch_size - 1 - epoch * size
            numbers = zip(places[last_ranks].tolist(), range(first, end), strict=True)
            full += [(place, bucket, number) for place, number in numbers]
        return [(bucket, number) for _, bucket, number in sorted(full)]
