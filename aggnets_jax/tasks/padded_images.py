"""Padded images with objects: the fields of a config that they leave unused, and normalisation."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from aggnets_jax import data
from aggnets_jax.config_fields.fields import flatten, plain
from aggnets_jax.errors import UserError
from aggnets_jax.training.task import Config

# Fields of a config that are not for images with objects, and their neutral values.
_NOT_FOR_OBJECTS = {
    "loss": None,
    "loss_args": {},
    "label_smoothing": 0.0,
    "progressive": (),
    "data.image_size": None,
    "data.flip_alternately": False,
    "data.repeats": 1,
    "data.policy": "none",
    "data.color_jitter": 0.0,
    "data.lighting": 0.0,
    "data.cutout": 0,
    "data.erasing": 0.0,
    "data.mixup": 0.0,
    "data.cutmix": 0.0,
    "model.scan": False,
    "num_seeds": 1,
}


def check_fields(config: Config, task: str, apart: Sequence[str] = ()) -> None:
    """Raise `UserError` if a field is set that is not for images with objects, except `apart`."""
    fields = flatten(plain(config))
    for field, value in _NOT_FOR_OBJECTS.items():
        if field not in apart and fields[field] != value:
            raise UserError(f"config.{field} is not for {task}: it must be {value!r}")
    if config.data.resident == "always":
        raise UserError(f"config.data.resident='always' is not for {task}: set 'auto'")


def preprocess_padded(info: data.DatasetInfo) -> data.Preprocess:
    """Return the function that normalises padded images; their padding is 0 afterwards."""
    mean, std = np.asarray(info.mean, np.float32), np.asarray(info.std, np.float32)

    def preprocess(
        batch: Mapping[str, jax.Array], *, train: bool, seed: int | jax.Array = 0
    ) -> jax.Array:
        del train, seed  # images are mirrored on the host, together with their objects
        images = (batch["image"].astype(jnp.float32) / 255 - mean) / std
        rows, columns = (jnp.arange(side) for side in images.shape[1:3])
        height, width = (batch["size"][:, i, None, None, None] for i in (0, 1))
        inside = (rows[:, None, None] < height) & (columns[:, None] < width)
        return jnp.where(inside, images, 0)

    return preprocess
