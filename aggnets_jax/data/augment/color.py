"""Random changes of brightness, contrast and colours."""

import jax
import jax.numpy as jnp
import numpy as np

from aggnets_jax.data.augment import pixels

# Principal axes of the colours of ImageNet's pixels, as columns, each times its standard deviation;
# on the scale 0..1. From AlexNet (Krizhevsky et al., 2012, section 4.1); the numbers are those of
# Facebook's training of ResNets in Torch, which the field has since used.
COLOR_AXES = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]],
    np.float32,
) * np.array([0.2175, 0.0188, 0.0045], np.float32)


def jitter(key: jax.Array, image: jax.Array, *, strength: float) -> jax.Array:
    """Changes brightness, contrast and colour, in random order, by factors 1 +- `strength`.

    Each is that of PIL's `ImageEnhance`: uint8 [H, W, C], C 1 or 3.
    """
    order_key, factor_key = jax.random.split(key)
    qualities = np.array([pixels.BRIGHTNESS, pixels.CONTRAST, pixels.COLOR], np.int32)
    order = jax.random.permutation(order_key, qualities)
    factors = jax.random.uniform(factor_key, (3,), minval=1 - strength, maxval=1 + strength)
    factors = (pixels.UNIT * factors).astype(jnp.int32)
    return jax.lax.scan(
        lambda image, change: (pixels.enhance(image, *change), None), image, (order, factors)
    )[0]


def lighting(key: jax.Array, image: jax.Array, *, deviation: float) -> jax.Array:
    """Adds a colour to all pixels: on each axis, a normal deviate times its standard deviation.

    Args:
      key: of the image.
      image: [H, W, 3], on the scale 0..255.
      deviation: standard deviation of the normal deviates.

    Returns:
      float32 [H, W, 3]; not clipped.
    """
    shift = jnp.asarray(COLOR_AXES) @ (deviation * jax.random.normal(key, (3,)))
    return image.astype(jnp.float32) + 255 * shift
