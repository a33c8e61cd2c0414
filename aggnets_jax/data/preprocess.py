"""From stored uint8 images to the network's float32 input, inside jit."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from aggnets_jax.data.info import DatasetInfo

Preprocess = Callable[..., jax.Array]


def make_preprocess(
    data_config: ml_collections.ConfigDict, info: DatasetInfo, seed: int
) -> Preprocess:
    """Returns `preprocess(batch, *, train)`, pure and traceable: float32 images [B, H, W, C].

    In training, images of a fixed size are padded with black by `crop_padding`, cropped back at
    random and, with `flip`, mirrored half of the time, all by (seed, epoch, index) alone. Images
    that the host has cropped and resized (`info.resized`) are not augmented again. Then, in
    training and evaluation, x / 255 - mean, over std.

    Args:
      data_config: `crop_padding` and `flip` are read.
      info: from `describe(data_config)`.
      seed: of the run's augmentation.

    Returns:
      A function of a batch with "image" uint8 [B, H, W, C] and, in training, "epoch" and "index"
      int32 [B]. It raises TypeError for images that are not uint8.
    """
    mean = np.asarray(info.mean, np.float32)
    std = np.asarray(info.std, np.float32)
    padding, flip = data_config.crop_padding, data_config.flip
    augments = not info.resized and (padding > 0 or flip)

    def augment(image: jax.Array, epoch: jax.Array, index: jax.Array) -> jax.Array:
        # The generator is named, so that jax_default_prng_impl cannot change the augmentation,
        # and because others are not stable under vmap.
        key = jax.random.key(seed, impl="threefry2x32")
        crop_key, flip_key = jax.random.split(
            jax.random.fold_in(jax.random.fold_in(key, epoch), index)
        )
        if padding:
            padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
            top, left = jax.random.randint(crop_key, (2,), 0, 2 * padding + 1)
            image = jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)
        if flip:
            image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
        return image

    def preprocess(batch: Mapping[str, jax.Array], *, train: bool) -> jax.Array:
        images = batch["image"]
        if images.dtype != jnp.uint8:
            raise TypeError(f"preprocess takes uint8 images, not {images.dtype}")
        if train and augments:
            images = jax.vmap(augment)(images, batch["epoch"], batch["index"])
        return (images.astype(jnp.float32) / 255 - mean) / std

    return preprocess
