"""Random draws of augmentations, over many keys."""

import jax
import numpy as np

COUNT = 4096


def over_keys(augment, image, count=COUNT):
    """Return the image as augmented with each of `count` keys: [count, H, W, C]."""
    keys = jax.random.split(jax.random.key(0, impl="threefry2x32"), count)
    augmented = jax.jit(jax.vmap(augment, in_axes=(0, None)))(keys, jax.numpy.asarray(image))
    return np.asarray(augmented)
