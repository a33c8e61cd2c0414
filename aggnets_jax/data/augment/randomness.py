"""Keys of the augmentation of examples."""

import enum

import jax


class Stream(enum.IntEnum):
    """A number for each augmentation, so that none changes what the others draw."""

    CROP = 0
    FLIP = 1
    POLICY = 2
    COLOR_JITTER = 3
    LIGHTING = 4
    CUTOUT = 5
    ERASING = 6
    MIX_BATCH = 7
    MIX_RATIO = 8


def example_key(seed: int | jax.Array, epoch: jax.Array, index: jax.Array) -> jax.Array:
    """Returns the key of an example in an epoch, from which each augmentation folds its own.

    The generator is named, so that jax_default_prng_impl cannot change the augmentation, and
    because others are not stable under vmap.
    """
    key = jax.random.key(seed, impl="threefry2x32")
    return jax.random.fold_in(jax.random.fold_in(key, epoch), index)
