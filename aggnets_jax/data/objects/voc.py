"""Pascal VOC, as TFDS prepares it, written as a folder in COCO's format."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from aggnets_jax.data.folders import make_once
from aggnets_jax.data.tf_runtime import import_tensorflow
from aggnets_jax.files import explained

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

VOC = "voc"
"""TFDS's name; its configs are years, such as "voc/2007"."""


def write_voc(builder: tfds.core.DatasetBuilder) -> Path:
    """Write a prepared data set of VOC as a folder in COCO's format beside it, once.

    The splits are TFDS's and "trainval", both "train" and "validation". Boxes are VOC's whole
    pixels, from the first to the last. Objects that are hard to recognise have "difficult".

    Raises:
      UserError: as `make_once`, or if a record is damaged.
    """
    damage = import_tensorflow().errors.OpError, UnidentifiedImageError

    def write(folder: Path) -> None:
        with explained(f"{builder.data_path} can't be read", *damage):
            contents = {name: _write_split(builder, name, folder) for name in builder.info.splits}
        contents["trainval"] = _joined([contents["train"], contents["validation"]])
        (folder / "annotations").mkdir()
        for split, content in contents.items():
            file = folder / "annotations" / f"instances_{split}.json"
            file.write_text(json.dumps(content))

    return make_once(f"{builder.data_path}-coco", write)


def _write_split(builder: tfds.core.DatasetBuilder, split: str, folder: Path) -> dict[str, Any]:
    """Write the images of a split to the folder "images", and return its annotations."""
    import tensorflow_datasets as tfds

    names = builder.info.features["objects"].feature["label"].names
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)],
    }
    (folder / "images").mkdir(parents=True, exist_ok=True)
    # Files are read in order, and the images stay as they are.
    examples = builder.as_dataset(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    for example in tfds.as_numpy(examples):
        # "000005.jpg" in 2007, "2008_000008.jpg" later: whole numbers that name an image.
        name = example["image/filename"].decode()
        identity = int("".join(c for c in name if c.isdigit()))
        (folder / "images" / name).write_bytes(example["image"])
        width, height = Image.open(io.BytesIO(example["image"])).size
        record = {"id": identity, "file_name": name, "height": height, "width": width}
        content["images"].append(record)
        for box, label, difficult in _objects(example["objects"], height, width):
            number = len(content["annotations"]) + 1
            content["annotations"].append(
                {
                    "id": number,
                    "image_id": identity,
                    "category_id": label + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    "difficult": difficult,
                }
            )
    return content


def _objects(
    objects: Mapping[str, np.ndarray], height: int, width: int
) -> Iterator[tuple[list[int], int, int]]:
    """Yield box, label and whether it is difficult, 0 or 1, of each object."""
    boxes = np.round(objects["bbox"] * [height, width, height, width]).astype(int)
    columns = (boxes.tolist(), objects["label"].tolist(), objects["is_difficult"].tolist())
    for (top, left, bottom, right), label, difficult in zip(*columns, strict=True):
        # VOC counts pixels from 1, and its boxes end with their last pixel.
        yield [left - 1, top - 1, right - left + 1, bottom - top + 1], label, int(difficult)


def _joined(contents: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the annotations of several splits together, with new ids of objects."""
    images = [image for content in contents for image in content["images"]]
    objects = [each for content in contents for each in content["annotations"]]
    objects = [{**each, "id": number} for number, each in enumerate(objects, 1)]
    return {**contents[0], "images": images, "annotations": objects}
