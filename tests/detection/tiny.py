"""A detector that is quick to compile, and scenes of one bright square each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from aggnets_jax.detection import create_detector
from aggnets_jax.detection.proposals import Limits
from aggnets_jax.detection.training import Objects

LIMITS = (Limits(40, None, 24), Limits(20, None, 12))


def detector(kind="mask_rcnn_fpn", **fields):
    return create_detector(
        kind,
        "sparsenet_bc16_k4",
        3,
        **{
            "frozen": 0,
            "most": 6,
            "limits": LIMITS,
            "sizes": {"pyramid": 8, "hidden": 16, "mask": 4, "mask_depth": 1, "anchor_scale": 8},
            **fields,
        },
    )


def scenes(number=2, side=32, objects=True):
    """Return images with a bright square each, their sizes and objects, of which one is padding."""
    random = np.random.default_rng(0)
    images = random.uniform(0, 0.1, (number, side, side, 3))
    boxes, masks = np.zeros((number, 2, 4)), np.zeros((number, 2, side, side), int)
    for i, image in enumerate(images):
        x, y = random.integers(2, side - 14, 2)
        image[y : y + 12, x : x + 12, i % 3] = 1
        boxes[i, 0] = x, y, x + 12, y + 12
        masks[i, 0, y : y + 12, x : x + 12] = 1
    labels = np.stack([np.arange(number) % 3, np.zeros(number)], axis=1)
    valid = np.tile([objects, False], (number, 1))
    found = Objects(
        jnp.asarray(boxes, jnp.float32),
        jnp.asarray(labels, jnp.int32),
        jnp.asarray(valid),
        jnp.asarray(masks),
    )
    sizes = jnp.full((number, 2), side)
    return jnp.asarray(images, jnp.float32), sizes, found


@functools.cache
def variables(**fields):
    made = detector(**fields)
    images, sizes, _ = scenes()
    return jax.jit(made.init)(jax.random.key(0), images, sizes)
