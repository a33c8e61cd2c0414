"""Facts about a data set (sizes, classes, splits), read from its metadata alone."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import ml_collections
import numpy as np

from aggnets_jax.arguments import check_whole_number
from aggnets_jax.config_fields.known_data import KNOWN, known_data, num_train
from aggnets_jax.data.catalog import open_prepared
from aggnets_jax.data.image_folder import IMAGE_FOLDER, list_classes
from aggnets_jax.data.split_info import pieces_of
from aggnets_jax.errors import UserError, one_line, unknown

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

RESIDENT_BYTES = 1 << 30
RESIDENT = ("auto", "always", "never")

# Mean and standard deviation of each channel, on the scale 0..1, by the beginning of a set's name;
# the first match counts. Other sets use 0.5 for both. Image folders hold photographs, as ImageNet.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NORMALISATION = {
    "aggnets_digits": ((0.30543369,), (0.37595716,)),
    "aggnets_mnist5k": ((0.13114076,), (0.30831935,)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "cifar10": ((0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768)),
    "imagenet": _IMAGENET,
    IMAGE_FOLDER: _IMAGENET,
    "coco_folder": _IMAGENET,
}

# Sets whose test splits hold images without labels.
UNLABELLED_TEST = ("imagenet2012", "places365_small")


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """A data set as the network and the training loop see it.

    Attributes:
      name: TFDS name.
      num_classes: number of classes.
      class_names: one name for each class.
      image_shape: (height, width, channels) of the network's input.
      num_train: examples in the training split.
      num_eval: examples in the evaluation split.
      train_split: training split of the config.
      eval_split: evaluation split of the config, or the default.
      mean: mean of each channel, on the scale 0..1.
      std: standard deviation of each channel, on the scale 0..1.
      resident: whether the images live on the device.
      resized: whether the host crops and resizes the images to `image_size`. Otherwise they reach
        the device as stored, and are augmented there.
      category_ids: in data sets of objects, the id of each class in their files.
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    num_train: int
    num_eval: int
    train_split: str
    eval_split: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resident: bool
    resized: bool
    category_ids: tuple[int, ...] = ()


class Split(NamedTuple):
    """A split of a prepared data set, for the functions that read it.

    Attributes:
      builder: builder of the prepared data set; None for files without a data set.
      info: from `describe`.
      name: TFDS split, which may be a slice or a sum.
      skip: whether damaged images are skipped, see `damage`.
      whole: whether images of any size are resized as a whole, without cutting out their centre.
    """

    builder: tfds.core.DatasetBuilder | None
    info: DatasetInfo
    name: str
    skip: bool = False
    whole: bool = False

    @property
    def num_examples(self) -> int:
        """Number of examples."""
        return self.builder.info.splits[self.name].num_examples

    @property
    def pieces(self) -> Sequence[tfds.core.utils.shard_utils.FileInstruction]:
        """Pieces of files, in reading order: `filename`, and records to `skip` and to `take`."""
        return self.builder.info.splits[self.name].file_instructions


def describe(data_config: ml_collections.ConfigDict) -> DatasetInfo:
    """Return the facts about a data set, from its metadata only; never download.

    Of the augmentation only `crop_padding` is read. Raise `UserError` if the config can't be met.
    """
    return open_and_describe(data_config)[1]


def open_and_describe(
    data_config: ml_collections.ConfigDict,
) -> tuple[tfds.core.DatasetBuilder, DatasetInfo]:
    """Return the builder of a config's data set with the facts, as `describe`."""
    name, train_split = data_config.name, data_config.train_split
    builder = open_prepared(name, data_config.data_dir)
    image_key, label_key = feature_keys(builder)
    num_train = _num_examples(builder, train_split)
    eval_split = data_config.eval_split or _default_eval_split(builder)
    num_eval = _num_examples(builder, eval_split)
    class_names = tuple(builder.info.features[label_key].names)
    if name == IMAGE_FOLDER:
        class_names = list_classes(builder, train_split, eval_split)
    if len(class_names) < 2:
        raise UserError(f"data set {name} has {len(class_names)} class(es), and needs two or more")
    stored_shape = builder.info.features[image_key].shape
    resident = _is_resident(data_config, stored_shape, num_train)
    image_shape, resized = _image_shape(data_config, stored_shape, resident)
    _check_padding(data_config, image_shape)
    mean, std = normalisation(data_config, builder.name, image_shape[-1])
    return builder, DatasetInfo(
        name=name,
        num_classes=len(class_names),
        class_names=class_names,
        image_shape=image_shape,
        num_train=num_train,
        num_eval=num_eval,
        train_split=train_split,
        eval_split=eval_split,
        mean=mean,
        std=std,
        resident=resident,
        resized=resized,
    )


def describe_known(config: ml_collections.ConfigDict) -> DatasetInfo:
    """Describe a config's data set without opening it, as `describe` does.

    There are no names of classes and no evaluation split. Raise `UserError` if it is not `KNOWN`.
    """
    if config.data.image_size is not None:
        check_whole_number("image_size", config.data.image_size, 1)
    known, name = known_data(config), config.data.name
    _check_padding(config.data, known.image_shape)
    mean, std = normalisation(config.data, name, known.image_shape[-1])
    return DatasetInfo(
        name=name,
        num_classes=known.num_classes,
        class_names=(),
        image_shape=known.image_shape,
        num_train=num_train(config),
        num_eval=0,
        train_split=config.data.train_split,
        eval_split="",
        mean=mean,
        std=std,
        resident=False,
        resized=known.image_shape != KNOWN[name].image_shape or name == "imagenet2012",
    )


def evaluation_split(data_config: ml_collections.ConfigDict) -> str:
    """Return the split by which a config's data set evaluates networks, by default.

    Raises:
      UserError: if there is no such data set or split.
    """
    builder = open_prepared(data_config.name, data_config.data_dir)
    return data_config.eval_split or _default_eval_split(builder)


def feature_keys(builder: tfds.core.DatasetBuilder) -> tuple[str, str]:
    """Return the names of the image and of the label in a data set's examples.

    Raise `UserError` if the data set is not for image classification.
    """
    import tensorflow_datasets as tfds

    features = builder.info.features
    if not isinstance(features, tfds.features.FeaturesDict):
        features = {}

    def keys_of(kind: type) -> list[str]:
        return [key for key, feature in features.items() if isinstance(feature, kind)]

    images = [k for k in keys_of(tfds.features.Image) if features[k].np_dtype == np.uint8]
    labels = keys_of(tfds.features.ClassLabel)
    supervised = builder.info.supervised_keys or ()
    if len(supervised) == 2 and supervised[0] in images and supervised[1] in labels:
        return supervised
    if len(images) == 1 and len(labels) == 1:
        return images[0], labels[0]
    raise UserError(
        f"data set {builder.name} is not for image classification: it needs one uint8 image and "
        f"one class label, and has the features {', '.join(sorted(features)) or 'none'}"
    )


def shared_examples(builder: tfds.core.DatasetBuilder, first: str, second: str) -> int:
    """Return how many of a data set's examples are in both of two splits."""
    parts = []
    for split in (first, second):
        named = [(part.splitname, part) for part in pieces_of(builder.info, split)]
        counts = {name: builder.info.splits[name].num_examples for name, _ in named}
        parts.append([(name, range(counts[name])[p.from_ : p.to]) for name, p in named])
    return sum(
        max(0, min(a.stop, b.stop) - max(a.start, b.start))
        for (name, a), (other, b) in itertools.product(*parts)
        if name == other
    )


def _num_examples(builder: tfds.core.DatasetBuilder, split: str) -> int:
    splits = builder.info.splits
    try:
        count = splits[split].num_examples
    # NotImplementedError: TFDS does not slice "all".
    except (AssertionError, KeyError, NotImplementedError, ValueError) as error:
        raise UserError(
            f"split {split!r} of {builder.name} cannot be read ({one_line(error)}); "
            f"its splits: {', '.join(sorted(splits))}"
        ) from None
    if count < 1:
        raise UserError(f"split {split!r} of {builder.name} is empty")
    return count


def _default_eval_split(builder: tfds.core.DatasetBuilder) -> str:
    splits = builder.info.splits
    for split in ("test", "validation", "val"):
        if split in splits and not (split == "test" and builder.name in UNLABELLED_TEST):
            return split
    raise UserError(
        f"data set {builder.name} has no split for evaluation; set eval_split to one of "
        f"{', '.join(sorted(splits))} or a slice such as 'train[80%:]'"
    )


def _is_resident(
    data_config: ml_collections.ConfigDict, stored_shape: Sequence[int | None], num_train: int
) -> bool:
    if data_config.resident not in RESIDENT:
        raise unknown("value of resident", str(data_config.resident), RESIDENT)
    if None in stored_shape:
        if data_config.resident == "always":
            raise UserError(
                f"resident='always' needs images of one size, and those of {data_config.name} "
                "may vary; set resident='auto'"
            )
        return False
    return may_stay(data_config, num_train, stored_shape)


def may_stay(
    data_config: ml_collections.ConfigDict, num_examples: int, image_shape: Sequence[int]
) -> bool:
    """Return whether so many images of one shape may live on the devices."""
    fits = num_examples * int(np.prod(image_shape)) <= RESIDENT_BYTES
    return data_config.resident == "always" or (data_config.resident == "auto" and fits)


def _image_shape(
    data_config: ml_collections.ConfigDict, stored_shape: Sequence[int | None], resident: bool
) -> tuple[tuple[int, int, int], bool]:
    """Return the shape of the network's images, and whether the host resizes to it."""
    name, size = data_config.name, data_config.image_size
    if size is not None:
        check_whole_number("image_size", size, 1)
    height, width, channels = stored_shape
    if channels is None:
        raise UserError(f"images of {name} vary in their number of channels")
    if channels not in (1, 3, 4):  # as images are decoded
        raise UserError(f"images of {name} have {channels} channels; allowed: 1, 3, 4")
    if None in (height, width):
        if size is None:
            raise UserError(
                f"images of {name} may vary in size: set config.data.image_size, such as 224"
            )
        return (size, size, channels), True
    if size is None or (size, size) == (height, width):
        return (height, width, channels), False
    if resident:
        raise UserError(
            f"images of {name} are {height}x{width}, and images on the devices are not resized to"
            f" {size}: leave image_size unset, or set resident='never'"
        )
    return (size, size, channels), True


def _check_padding(
    data_config: ml_collections.ConfigDict, image_shape: tuple[int, int, int]
) -> None:
    padding, largest = data_config.crop_padding, min(image_shape[:2])
    if not 0 <= padding <= largest:
        raise UserError(f"crop_padding must be between 0 and {largest}, not {padding}")


def default_normalisation(
    builder_name: str, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel of a data set, if a config sets none."""
    half = (0.5,) * channels
    constants = (value for key, value in NORMALISATION.items() if builder_name.startswith(key))
    return next(constants, (half, half))


def normalisation(
    data_config: ml_collections.ConfigDict, builder_name: str, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, of the config or else of the data set.

    Raises:
      UserError: if the config's do not fit the channels.
    """
    default_mean, default_std = default_normalisation(builder_name, channels)
    mean = tuple(data_config.mean) or default_mean
    std = tuple(data_config.std) or default_std
    for field, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise UserError(
                f"{field} needs {channels} value(s), one for each channel of {data_config.name}, "
                f"not {len(values)}"
            )
    if not all(value > 0 for value in std):
        raise UserError(f"std must be greater than 0 in every channel, not {std}")
    return mean, std
