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
# The parts of an augmentation, in their order, by the stream of their keys.
Steps = dict[Stream, Callable[[jax.Array, jax.Array], jax.Array]]


def as_they_are(
    batch: Mapping[str, jax.Array], *, train: bool, seed: int | jax.Array = 0
) -> jax.Array:
    """The images of a batch; preprocesses nothing."""
    del train, seed
    return batch["image"]


def make_preprocess(data_config: ml_collections.ConfigDict, info: DatasetInfo) -> Preprocess:
    """Returns `preprocess(batch, *, train, seed=0)`, pure and traceable: float32 [B, H, W, C].

    In training, images are augmented: padded with black and cropped back (not if the host has
    cropped and resized them, `info.resized`), flipped, changed by a policy, by jitter and lighting,
    and erased; then normalised, x / 255 - mean, over std; then cut out. An image's augmentation
    follows from (seed, epoch, index), and that of each part does not depend on the others. In
    evaluation, images are normalised only.

    Args:
      data_config: `crop_padding`, `flip`, `policy`, `policy_args`, `color_jitter`, `lighting`,
        `erasing` and `cutout` are read.
      info: from `describe(data_config)`.

    Returns:
      A function of a batch with "image" uint8 [B, H, W, C] and, in training, "epoch" and "index"
      int32 [B], and of the seed, which may be traced. It raises TypeError for images that are not
      uint8.

    Raises:
      UserError: for a value that is not allowed, or that the images do not admit.
    """
    mean = np.asarray(info.mean, np.float32)
    std = np.asarray(info.std, np.float32)
    before = _before_normalisation(data_config, info)
    after = _after_normalisation(data_config, info)

    def normalise(image: jax.Array) -> jax.Array:
        return (image.astype(jnp.float32) / 255 - mean) / std

    def augment(epoch: jax.Array, index: jax.Array, image: jax.Array, seed: jax.Array) -> jax.Array:
        key = example_key(seed, epoch, index)
        return _run(after, key, normalise(_run(before, key, image)))

    def preprocess(
        batch: Mapping[str, jax.Array], *, train: bool, seed: int | jax.Array = 0
    ) -> jax.Array:
        images = batch["image"]
        if images.dtype != jnp.uint8:
            raise TypeError(f"preprocess takes uint8 images, not {images.dtype}")
        if not train or not (before or after):
            return normalise(images)
        return jax.vmap(augment, in_axes=(0, 0, 0, None))(
            batch["epoch"], batch["index"], images, seed
        )

    return preprocess


def _run(steps: Steps, key: jax.Array, image: jax.Array) -> jax.Array:
    for stream, step in steps.items():
        image = step(jax.random.fold_in(key, stream), image)
    return image


def _before_normalisation(data_config: ml_collections.ConfigDict, info: DatasetInfo) -> Steps:
    """Checks the config, and returns the steps on images of 0..255."""
    padding, strength = data_config.crop_padding, data_config.color_jitter
    deviation, probability = data_config.lighting, data_config.erasing
    check_number("color_jitter", strength, 0, 1)
    check_number("lighting", deviation, 0)
    check_number("erasing", probability, 0, 1)
    policy = make_policy(data_config.policy, data_config.policy_args, info.image_shape[:2])
    if policy:
        _check_channels(f"policy={data_config.policy!r}", info, (1, 3))
    if strength:
        _check_channels(f"color_jitter={strength}", info, (1, 3))
    if deviation:
        _check_channels(f"lighting={deviation}", info, (3,))
    partial = functools.partial
    steps = {
        Stream.CROP: padding
        and not info.resized
        and partial(transforms.padded_crop, padding=padding),
        Stream.FLIP: data_config.flip and transforms.flip,
        Stream.POLICY: policy,
        Stream.COLOR_JITTER: strength and partial(transforms.jitter, strength=strength),
        Stream.LIGHTING: deviation and partial(transforms.lighting, deviation=deviation),
        Stream.ERASING: probability and partial(transforms.erase, probability=probability),
    }
    return {stream: step for stream, step in steps.items() if step}


def _after_normalisation(data_config: ml_collections.ConfigDict, info: DatasetInfo) -> Steps:
    """Checks the config, and returns the steps on normalised images."""
    side = data_config.cutout
    check_whole_number("cutout", side, 0, min(info.image_shape[:2]))
    return {Stream.CUTOUT: functools.partial(transforms.cutout, side=side)} if side else {}


def _check_channels(what: str, info: DatasetInfo, allowed: tuple[int, ...]) -> None:
    channels = info.image_shape[-1]
    if channels not in allowed:
        wanted = " or ".join(map(str, allowed))
        raise UserError(
            f"{what} needs images of {wanted} channel(s), and those of {info.name} have {channels}"
        )
