"""Data sets of images with objects by their names, and the facts about them."""

import ml_collections

from aggnets_jax.data.catalog import COCO_FOLDER, OBJECT_SETS, SCENES
from aggnets_jax.data.dataset_info import DatasetInfo, normalisation
from aggnets_jax.data.objects.annotations import Annotated, read_annotations, splits
from aggnets_jax.data.objects.batches import TrainedImages
from aggnets_jax.data.objects.examples import Form
from aggnets_jax.data.objects.scenes import prepare_scenes
from aggnets_jax.errors import UserError, unknown

_EVAL_SPLITS = ("test", "val", "validation", "val2017", "val2014")


def find_folder(data_config: ml_collections.ConfigDict) -> str:
    """Return the folder of a config's data set; the shipped scenes are made if necessary."""
    if data_config.name == SCENES:
        return str(prepare_scenes(data_config.data_dir))
    if data_config.name != COCO_FOLDER:
        raise unknown("data set for detection", data_config.name, OBJECT_SETS)
    if data_config.data_dir is None:
        raise UserError(
            f"data set {COCO_FOLDER} needs data_dir: a folder with annotations/instances_SPLIT.json"
        )
    return data_config.data_dir


def eval_split(data_config: ml_collections.ConfigDict, folder: str) -> str:
    """Return the split of the evaluation, by default the first that is there of the usual ones."""
    if data_config.eval_split is not None:
        return data_config.eval_split
    there = splits(folder)
    for split in _EVAL_SPLITS:
        if split in there:
            return split
    raise UserError(f"{folder} has no split for evaluation; set eval_split to one of {there}")


def read_split(data_config: ml_collections.ConfigDict, form: Form, *, train: bool) -> Annotated:
    """Read the annotations of the training or the evaluation split of a config."""
    folder = find_folder(data_config)
    split = data_config.train_split if train else eval_split(data_config, folder)
    skip = data_config.damaged == "skip"
    return read_annotations(folder, split, masks=form.masks, skip=skip)


def describe_objects(
    data_config: ml_collections.ConfigDict, form: Form, *, empty: bool, least_side: int
) -> DatasetInfo:
    """Return the facts about a data set of objects; arguments as for `TrainedImages`.

    Raises:
      UserError: if the config can't be met, or both splits have other categories.
    """
    train, evaluation = (read_split(data_config, form, train=part) for part in (True, False))
    if differing := {*train.categories.items()} ^ {*evaluation.categories.items()}:
        number, name = min(differing)
        raise UserError(
            f"{train.file} and {evaluation.file} differ in their categories, such as {number}"
            f" {name!r}"
        )
    images = TrainedImages(train, form, empty=empty, least_side=least_side)
    mean, std = normalisation(data_config, data_config.name, 3)
    return DatasetInfo(
        name=data_config.name,
        num_classes=len(train.categories),
        class_names=tuple(train.categories.values()),
        image_shape=(*form.training_sizes[0], 3),
        num_train=len(images.index),
        num_eval=len(evaluation.images),
        train_split=data_config.train_split,
        eval_split=eval_split(data_config, find_folder(data_config)),
        mean=mean,
        std=std,
        resident=False,
        resized=True,
        category_ids=tuple(train.categories),
    )
