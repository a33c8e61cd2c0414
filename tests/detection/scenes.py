"""Random boxes for properties."""

import functools

import jax
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from aggnets_jax.detection.conventions import CENTER, LEGACY, TORCHVISION

RECORDS = (LEGACY, CENTER, TORCHVISION)
SEEDS = st.integers(0, 2**31 - 1)

# Every example has the same shapes, so that a program is compiled once.
few = settings(max_examples=8, deadline=None)


@functools.cache
def compiled(function, **fixed):
    """Return a function with some of its arguments fixed, compiled once for all examples."""
    return jax.jit(functools.partial(function, **fixed))


def boxes(seed, number, size=(60, 80), whole=False):
    """Return boxes [number, 4] in an image, of sides of at least 1 pixel, some of them equal."""
    random = np.random.default_rng(seed)
    height, width = size
    corner = random.uniform(0, [width - 2, height - 2], (number, 2))
    end = corner + random.uniform(1, 30, (number, 2))
    found = np.concatenate([corner, np.minimum(end, [width - 1, height - 1])], axis=1)
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    found[number // 2] = found[0]
    return np.round(found) if whole else found
