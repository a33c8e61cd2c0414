"""Random samples of positive and negative anchors or proposals, in static shapes.

The random key of an image depends on the seed, the step and the image's index in the global batch,
but not on devices and processes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from aggnets_jax.detection.assign import IGNORED, NEGATIVE


class Sample(NamedTuple):
    """Sampled candidates of an image: slots for positives first, then for negatives.

    Attributes:
      index: candidates, int32 [slots].
      assigned: object of each slot, or `NEGATIVE` or `IGNORED`, int32 [slots].
      positive: slots that hold a positive candidate, bool [slots].
      negative: slots that hold a negative candidate, bool [slots].
    """

    index: jax.Array
    assigned: jax.Array
    positive: jax.Array
    negative: jax.Array


def image_keys(key: jax.Array, step: jax.Array, examples: jax.Array) -> jax.Array:
    """Return the keys [images] of images, by their index in the global batch, int32 [images]."""
    key = jax.random.fold_in(key, step)
    return jax.vmap(lambda example: jax.random.fold_in(key, example))(examples)


def draw(key: jax.Array, mask: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
    """Draw up to `most` of the true entries of a mask [n] without repetition, all equally likely.

    Returns:
      Indices, int32 [min(most, n)], in random order, and which of them are real, bool.
    """
    # Of equal numbers the first is taken; these are rare, and the order is the same on all devices.
    number = jnp.where(mask, jax.random.uniform(key, mask.shape), -1.0)
    values, index = jax.lax.top_k(number, min(most, mask.shape[0]))
    return index.astype(jnp.int32), values >= 0


def sample(key: jax.Array, assigned: jax.Array, *, number: int, positives: int) -> Sample:
    """Draw up to `positives` positive candidates, and negatives up to `number` in all.

    Args:
      key: random key of the image.
      assigned: int32 [candidates], see `assign_anchors`.
      number: largest number of samples.
      positives: largest number of positives among them.

    Returns:
      A sample of min(number, candidates) slots, the real ones first.
    """
    first, second = jax.random.split(key)
    index, positive = draw(first, assigned >= 0, positives)
    others, negative = draw(second, assigned == NEGATIVE, number)
    negative &= jnp.arange(negative.shape[0]) < number - positive.sum()
    index = jnp.concatenate([index, others])
    real = jnp.concatenate([positive, negative])
    order = jnp.argsort(~real, stable=True)[: min(number, assigned.shape[0])]
    index, real = index[order], real[order]
    found = jnp.where(real, assigned[index], IGNORED)
    return Sample(index, found, found >= 0, found == NEGATIVE)
