"""From stored uint8 images to the network's float32 input, inside jit."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from aggnets_jax.data.augment import crop
from aggnets_jax.data.augment.randomness import Stream, example_key
from aggnets_jax.data.info import DatasetInfo

Preprocess = Callable[..., jax.Array]


def make_preprocess(data_config: ml_collections.ConfigDict, info: DatasetInfo) -> Preprocess:
    """Returns `preprocess(batch, *, train, seed=0)`, pure and traceable: float32 [B, H, W, C].

    In training, images of a fixed size are padded with black by `crop_padding` and cropped back at
    random; those that the host has cropped and resized (`info.resized`) are not cropped again. With
    `flip` half of the images are mirrored. All follows from (seed, epoch, index) alone. Then, in
    training and evaluation, x / 255 - mean, over std.

    Args:
      data_config: `crop_padding` and `flip` are read.
      info: from `describe(data_config)`.

    Returns:
      A function of a batch with "image" uint8 [B, H, W, C] and, in training, "epoch" and "index"
      int32 [B], and of the seed of the augmentation, which may be traced. It raises TypeError for
      images that are not uint8.
    """
    mean = np.asarray(info.mean, np.float32)
    std = np.asarray(info.std, np.float32)
    steps = {}
    if data_config.crop_padding and not info.resized:
        steps[Stream.CROP] = functools.partial(crop.padded_crop, padding=data_config.crop_padding)
    if data_config.flip:
        steps[Stream.FLIP] = crop.flip

    def preprocess(
        batch: Mapping[str, jax.Array], *, train: bool, seed: int | jax.Array = 0
    ) -> jax.Array:
        images = batch["image"]
        if images.dtype != jnp.uint8:
            raise TypeError(f"preprocess takes uint8 images, not {images.dtype}")
        if train and steps:
            keys = jax.vmap(example_key, in_axes=(None, 0, 0))(seed, batch["epoch"], batch["index"])

            def augment(key: jax.Array, image: jax.Array) -> jax.Array:
                for stream, step in steps.items():
                    image = step(jax.random.fold_in(key, stream), image)
                return image

            images = jax.vmap(augment)(keys, images)
        return (images.astype(jnp.float32) / 255 - mean) / std

    return preprocess
