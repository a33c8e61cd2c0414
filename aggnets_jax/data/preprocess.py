"""From stored uint8 images to the network's float32 input, inside jit."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from aggnets_jax.arguments import check_number, check_whole_number
from aggnets_jax.data.augment import transforms
from aggnets_jax.data.augment.policies import make_policy
from aggnets_jax.data.augment.transforms import Stream, example_key
from aggnets_jax.data.dataset_info import DatasetInfo
from aggnets_jax.errors import UserError

Preprocess = Callable[..., jax.Array]
# The augmentations of an image, in their order, by the stream of their keys.
Steps = dict[Stream, Callable[[jax.Array, jax.Array], jax.Array]]


def as_they_are(
    batch: Mapping[str, jax.Array], *, train: bool, seed: int | jax.Array = 0
) -> jax.Array:
    """Return the images of a batch without preprocessing."""
    del train, seed
    return batch["image"]


def make_preprocess(data_config: ml_collections.ConfigDict, info: DatasetInfo) -> Preprocess:
    """Return `preprocess(batch, *, train, seed=0)`, pure and traceable: float32 [B, H, W, C].

    In training, images are augmented: padded with black and cropped (unless the host has cropped
    and resized them, `info.resized`), flipped, changed by a policy, by jitter and lighting, and
    erased; then normalised, (x / 255 - mean) / std; then cut out. The augmentation of an image
    depends on (seed, epoch, index), and the draws of each step do not depend on the other steps. In
    evaluation, images are only normalised. `info` is from `describe(data_config)`.

    Returns:
      A function of a batch with "image" uint8 [B, H, W, C] and, in training, "epoch" and "index"
      int32 [B], and of the seed, which may be traced. It raises TypeError for images that are not
      uint8.

    Raises:
      UserError: a value is not allowed, or does not fit the images.
    """
    mean, std = np.asarray(info.mean, np.float32), np.asarray(info.std, np.float32)
    before = _before_normalisation(data_config, info)
    side, alternate = data_config.cutout, data_config.flip_alternately
    if alternate and not data_config.flip:
        raise UserError("flip_alternately is for images that are flipped: set data.flip=True")
    check_whole_number("cutout", side, 0, min(info.image_shape[:2]))
    after = {Stream.CUTOUT: functools.partial(transforms.cutout, side=side)} if side else {}

    def normalise(image: jax.Array) -> jax.Array:
        return (image.astype(jnp.float32) / 255 - mean) / std

    def augment(epoch: jax.Array, index: jax.Array, image: jax.Array, seed: jax.Array) -> jax.Array:
        key = example_key(seed, epoch, index)
        if alternate:
            first = jax.random.fold_in(example_key(seed, 0, index), Stream.FLIP)
            flips = jax.random.bernoulli(first) ^ (epoch % 2 == 1)
            image = jnp.where(flips, image[:, ::-1], image)
        return _run(after, key, normalise(_run(before, key, image)))

    def preprocess(
        batch: Mapping[str, jax.Array], *, train: bool, seed: int | jax.Array = 0
    ) -> jax.Array:
        images = batch["image"]
        if images.dtype != jnp.uint8:
            raise TypeError(f"preprocess takes uint8 images, not {images.dtype}")
        if not train or not (before or after or alternate):
            return normalise(images)
        return jax.vmap(augment, in_axes=(0, 0, 0, None))(
            batch["epoch"], batch["index"], images, seed
        )

    return preprocess


def _run(steps: Steps, key: jax.Array, image: jax.Array) -> jax.Array:
    for stream, step in steps.items():
        image = step(jax.random.fold_in(key, stream), image)
    return image


def _before_normalisation(config: ml_collections.ConfigDict, info: DatasetInfo) -> Steps:
    """Check the config and return the steps for images on the scale 0..255."""
    padding, strength = config.crop_padding, config.color_jitter
    deviation, probability = config.lighting, config.erasing
    check_number("color_jitter", strength, 0, 1)
    check_number("lighting", deviation, 0)
    check_number("erasing", probability, 0, 1)
    partial, steps = functools.partial, {}
    if padding and not info.resized:
        steps[Stream.CROP] = partial(transforms.padded_crop, padding=padding)
    if config.flip and not config.flip_alternately:
        steps[Stream.FLIP] = transforms.flip
    if policy := make_policy(config.policy, config.policy_args, info.image_shape[:2]):
        _check_channels(f"policy={config.policy!r}", info, (1, 3))
        steps[Stream.POLICY] = policy
    if strength:
        _check_channels(f"color_jitter={strength}", info, (1, 3))
        steps[Stream.COLOR_JITTER] = partial(transforms.jitter, strength=strength)
    if deviation:
        _check_channels(f"lighting={deviation}", info, (3,))
        steps[Stream.LIGHTING] = partial(transforms.lighting, deviation=deviation)
    if probability:
        steps[Stream.ERASING] = partial(transforms.erase, probability=probability)
    return steps


def _check_channels(what: str, info: DatasetInfo, allowed: tuple[int, ...]) -> None:
    channels = info.image_shape[-1]
    if channels not in allowed:
        wanted = " or ".join(map(str, allowed))
        raise UserError(
            f"{what} needs images of {wanted} channel(s), and those of {info.name} have {channels}"
        )
