"""A training split that lives on the devices: shuffled, and batched inside the compiled step."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.typing import ArrayLike

from aggnets_jax.runtime.mesh import replicate

Batch = dict[str, jax.Array]

# Folded into the keys of the orders of epochs; the augmentation of example i folds i.
_ORDER_STREAM = 2**32 - 1


class Feed(NamedTuple):
    """Arrays from which the batches of some steps are made, on every device.

    Attributes:
      images: images of the split, uint8 [N, height, width, channels].
      labels: int32 [N].
      orders: orders of a few epochs, int32 [epochs, N]; with several seeds [seeds, epochs, N].
      start: the first of these epochs, and the place in it where the first step's batch begins,
        int32 [2].
    """

    images: jax.Array
    labels: jax.Array
    orders: jax.Array
    start: jax.Array


class ResidentData:
    """Batches of a training split that lives on every device.

    Every example comes exactly once an epoch, in an order that depends on (seed, epoch). Batches
    run across the end of an epoch: place i of step s is p = s * batch_size + i, in epoch p // N at
    place p % N. So N need not be divisible by the batch size.

    The images are uint8 [N, height, width, channels], the labels int32 [N]; the rest is as for
    `train_data`. The batches of several seeds are made at once. With `repeats` r, batch_size / r
    examples are taken in this way, and r copies of each stand beside each other; their "epoch" is
    r times that of the example, plus the number of the copy.

    Attributes:
      most_steps: number of steps for which a feed makes batches.
      seed_axes: the axes of seeds in a feed, as `in_axes` of `jax.vmap`.
    """

    seed_axes = Feed(images=None, labels=None, orders=0, start=None)

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        batch_size: int,
        seeds: int | np.ndarray,
        most_steps: int,
        sharding: NamedSharding,
        repeats: int = 1,
    ) -> None:
        self.most_steps = most_steps
        self._repeats = repeats
        self._images, self._labels = (replicate(array, sharding) for array in (images, labels))
        self._num_examples = len(labels)
        self._batch_size = batch_size // repeats  # different images
        self._sharding = sharding
        seeds = self._placed(seeds)
        # Number of epochs that most_steps batches may touch, wherever they begin.
        most = most_steps * self._batch_size
        self._epochs = (most + self._num_examples - 2) // self._num_examples + 1
        shuffled = jax.jit(self._shuffle, out_shardings=self._images.sharding)
        self._orders = functools.lru_cache(maxsize=1)(
            lambda epoch: shuffled(seeds, self._placed(epoch))
        )

    def _shuffle(self, seeds: jax.Array, first_epoch: jax.Array) -> jax.Array:
        def order(seed: jax.Array, epoch: jax.Array) -> jax.Array:
            # The generator is named, so that jax_default_prng_impl can't change the order.
            key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), epoch)
            return jax.random.permutation(
                jax.random.fold_in(key, _ORDER_STREAM), self._num_examples
            ).astype(jnp.int32)

        orders = jax.vmap(order, in_axes=(None, 0))
        if seeds.ndim:
            orders = jax.vmap(orders, in_axes=(0, None))
        return orders(seeds, first_epoch + jnp.arange(self._epochs))

    def _placed(self, numbers: ArrayLike) -> jax.Array:
        # A compiled step would wait for numbers that are not on the devices.
        return replicate(np.asarray(numbers, np.int32), self._sharding)

    def feed(self, step: int) -> Feed:
        """Return the arrays for the batches of steps `step`, ..., `step + most_steps - 1`."""
        epoch, place = divmod(step * self._batch_size, self._num_examples)
        start = self._placed((epoch, place))
        return Feed(self._images, self._labels, self._orders(epoch), start)

    def batch(self, feed: Feed, step: int | jax.Array) -> Batch:
        """Return the batch of a step, counted from the feed's first; for tracing.

        The number of the step, int32, is below `most_steps`; the feed is of one seed.

        Returns:
          "image" uint8 [B, height, width, channels]; "label", "epoch", "index" int32 [B], where
          "index" is the example's number in the split's reading order.
        """
        epoch, place = feed.start
        places = place + step * self._batch_size + jnp.arange(self._batch_size)
        epochs, places = jnp.divmod(places, self._num_examples)
        epochs, index = epoch + epochs, feed.orders[epochs, places]
        if self._repeats > 1:
            epochs, index = (jnp.repeat(x, self._repeats) for x in (epochs, index))
            copies = jnp.tile(jnp.arange(self._repeats), self._batch_size)
            epochs = epochs * self._repeats + copies
        index = jax.lax.with_sharding_constraint(index, self._sharding)
        batch = {
            "image": feed.images[index],
            "label": feed.labels[index],
            "epoch": epochs.astype(jnp.int32),
            "index": index,
        }
        return jax.lax.with_sharding_constraint(batch, self._sharding)
