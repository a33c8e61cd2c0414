"""Random crops of padded images, and flips."""

import jax
import jax.numpy as jnp


def padded_crop(key: jax.Array, image: jax.Array, *, padding: int) -> jax.Array:
    """Pads with black by `padding` pixels and crops back anywhere: uint8 [H, W, C]."""
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)


def flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Mirrors left to right, one time in two: [H, W, C]."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)
