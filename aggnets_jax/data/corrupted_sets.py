"""Corrupted data sets in their authors' formats.

    CIFAR-10-C, CIFAR-100-C   FOLDER/fog.npy, uint8 [5 N, 32, 32, 3], one severity after the other,
                              and FOLDER/labels.npy, [5 N] or [N]
    ImageNet-C                FOLDER/fog/3/n01440764/*.JPEG, where fog may be in a further folder

The sets cifar10_corrupted and imagenet2012_corrupted of TFDS have a config for each corruption and
severity, such as cifar10_corrupted/fog_3.
"""

import numpy as np

from aggnets_jax.data.corruptions import SEVERITIES
from aggnets_jax.data.folders import is_visible
from aggnets_jax.data.numpy_files import read_array
from aggnets_jax.errors import UserError
from aggnets_jax.files import AnyPath, explained, has_folder

PREPARED = ("cifar10_corrupted", "imagenet2012_corrupted")
"""Names of the sets in TFDS."""

_LABELS = "labels.npy"
# Names of corruptions in cifar10_corrupted that differ from the authors'.
_IN_CIFAR = {"glass_blur": "frosted_glass_blur", "elastic_transform": "elastic"}


def prepared_name(name: str, corruption: str, severity: int) -> str:
    """Return the TFDS name of one corruption and severity of a set of `PREPARED`."""
    if name == "cifar10_corrupted":
        corruption = _IN_CIFAR.get(corruption, corruption)
    return f"{name}/{corruption}_{severity}"


def has_arrays(folder: AnyPath) -> bool:
    """Return whether a folder has a set in the format of CIFAR-10-C."""
    return (folder / _LABELS).exists()


def read_arrays(folder: AnyPath, corruption: str, severity: int) -> tuple[np.ndarray, np.ndarray]:
    """Read images, uint8 [N, height, width, channels], and labels, int64 [N].

    Raises:
      UserError: if a file is missing, damaged, or does not have the format.
    """
    images, labels = _read(folder / f"{corruption}.npy"), _read(folder / _LABELS)
    count = images.shape[0] // len(SEVERITIES) if images.ndim == 4 else 0
    whole = count and images.dtype == np.uint8 and count * len(SEVERITIES) == len(images)
    if not whole or labels.ndim != 1 or len(labels) not in (count, len(images)):
        raise UserError(
            f"{folder / corruption}.npy has {images.dtype} {list(images.shape)} and {_LABELS}"
            f" {list(labels.shape)}; needed are uint8 [5 N, height, width, channels] and [5 N]"
        )
    part = slice((severity - 1) * count, severity * count)
    own = labels if len(labels) == count else labels[part]
    return images[part], own.astype(np.int64)


def _read(file: AnyPath) -> np.ndarray:
    with explained(f"{file} can't be read", Exception), file.open("rb") as content:
        return read_array(content)


def find_folder(folder: AnyPath, corruption: str) -> AnyPath:
    """Return the folder of a corruption, with a folder for each severity, in or below `folder`.

    Raises:
      UserError: if there is none.
    """
    inner = (place for place in folder.glob(f"*/{corruption}") if is_visible(place.parent.name))
    for place in [folder / corruption, *sorted(inner)]:
        if has_folder(place):
            return place
    raise UserError(f"{folder} has neither {_LABELS} nor a folder {corruption}")
