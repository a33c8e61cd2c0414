"""Scenes composed of scikit-learn's handwritten digits, a small data set in COCO's format.

A scene is 64x64 pixels: one to four digits of 14 to 30 pixels in bright colours, which hardly
overlap, on a dark gradient with noise. The digits of training scenes are from the training split of
`aggnets_digits`, those of test scenes from its test split. The category ids are 1, 4, ..., 28, so
that ids are not labels. Most masks are run-length counts, some polygons. Each split ends with odd
images: one without objects, one with a crowd alone, and in the test split one of another size.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aggnets_jax.data.catalog import SCENES
from aggnets_jax.data.folders import make_once
from aggnets_jax.detection.images import resize

VERSION = "1.0.0"
SPLITS = {"train": 600, "test": 200}

SIDE = 64
_OTHER_SIDES = (48, 56)
_MOST, _LEAST_SIDE, _MOST_SIDE = 4, 14, 30
_MASK = 0.4  # of the brightest pixel of a digit


def prepare_scenes(data_dir: str | None) -> Path:
    """Make the data set if it is not there, and return its folder.

    Args:
      data_dir: local folder of data sets, made if necessary; None is TFDS's default.

    Raises:
      UserError: as `make_once`.
    """
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    folder = os.path.join(data_dir, SCENES, VERSION)
    return make_once(folder, lambda begun: write_scenes(begun, SPLITS))


def write_scenes(folder: Path, numbers: dict[str, int], seed: int = 0) -> None:
    """Write so many scenes of the splits "train" and "test" as a folder in COCO's format.

    Each split needs four scenes or more. The same arguments give the same files.
    """
    # Here, because it takes longer than to import what else reads annotations.
    from sklearn.datasets import load_digits

    from aggnets_jax.data.digits import LARGEST_VALUE, digits_split

    digits = load_digits()
    (folder / "annotations").mkdir(parents=True)
    for number, (split, members) in enumerate(zip(("train", "test"), digits_split(), strict=True)):
        (folder / split).mkdir()
        random = np.random.default_rng((seed, number))
        images = digits.images[members] / LARGEST_VALUE
        content = _empty_content()
        for place in range(numbers[split]):
            last = numbers[split] - 1 - place
            size = _OTHER_SIDES if split == "test" and last == 2 else (SIDE, SIDE)
            chosen = random.permutation(len(images))[: random.integers(1, _MOST + 1)]
            drawn = list(zip(images[chosen], digits.target[members][chosen].tolist(), strict=True))
            pixels, objects = make_scene(random, [] if last == 0 else drawn, size)
            name = f"{place + 1:06d}.png"
            Image.fromarray(pixels).save(folder / split / name)
            record = {"id": place + 1, "file_name": name, "height": size[0], "width": size[1]}
            content["images"].append(record)
            objects = [_crowd(objects)] if last == 1 else objects
            for each in objects:
                identity = len(content["annotations"]) + 1
                content["annotations"].append({"id": identity, "image_id": place + 1, **each})
        file = folder / "annotations" / f"instances_{split}.json"
        file.write_text(json.dumps(content))


def _empty_content() -> dict[str, list[Any]]:
    categories = [{"id": 3 * digit + 1, "name": str(digit)} for digit in range(10)]
    return {"images": [], "annotations": [], "categories": categories}


def make_scene(
    random: np.random.Generator, digits: Sequence[tuple[np.ndarray, int]], size: tuple[int, int]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Compose digits, each an image [8, 8] in 0..1 and its class, to a scene.

    Digits after the first that would overlap others by more than a few pixels are left out.

    Returns:
      uint8 [*size, 3], and the annotations without ids.
    """
    height, width = size
    slopes = random.uniform(-0.15, 0.15, (2, 3))
    rows, columns = np.mgrid[:height, :width] / max(size) - 0.5
    scene = (
        random.uniform(0.1, 0.4, 3) + rows[..., None] * slopes[0] + columns[..., None] * slopes[1]
    )
    scene += random.normal(0, 0.04, scene.shape)
    taken, objects = np.zeros(size, bool), []
    for digit, label in digits:
        side = int(random.integers(_LEAST_SIDE, _MOST_SIDE + 1))
        top, left = (int(random.integers(0, extent - side + 1)) for extent in size)
        colour = random.uniform(0.5, 1.0, 3)
        # Rounded, so that no mask depends on how a value near the threshold was computed.
        strength = np.round(np.clip(resize(digit[..., None], (side, side)), 0, 1), 4)
        part = np.s_[top : top + side, left : left + side]
        mask = np.zeros(size, bool)
        mask[part] = strength[..., 0] > _MASK
        if objects and (taken & mask).sum() > 0.05 * mask.sum():
            continue
        scene[part] = scene[part] * (1 - strength) + colour * strength
        taken |= mask
        objects.append(_annotation(mask, label, polygons=random.random() < 0.3))
    return np.round(255 * np.clip(scene, 0, 1)).astype(np.uint8), objects


def _annotation(mask: np.ndarray, label: int, *, polygons: bool) -> dict[str, Any]:
    """Return the annotation of a mask; as polygons if it has no hole, which these can't say."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    box = [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]
    outlines = _outlines(mask) if polygons else None
    return {
        "category_id": 3 * label + 1,
        "bbox": box,
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": outlines or run_lengths(mask),
    }


def _crowd(objects: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the first object as a crowd, which has run-length counts."""
    x, y, w, h = objects[0]["bbox"]
    mask = np.zeros((SIDE, SIDE), bool)
    mask[y : y + h, x : x + w] = True
    counts = run_lengths(mask)
    return {**objects[0], "area": w * h, "iscrowd": 1, "segmentation": counts}


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask, bool [height, width], as COCO's run-length counts, not compressed."""
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *ends, len(flat)]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def _outlines(mask: np.ndarray) -> list[list[float]] | None:
    """Return the outlines of a mask as polygons (x1, y1, x2, y2, ...), or None if it has a hole."""
    import contourpy
    from scipy import ndimage

    around = np.pad(mask, 1)
    if ndimage.label(~around)[1] > 1:
        return None
    lines = contourpy.contour_generator(z=around.astype(float)).lines(0.5)
    # The centre of pixel 0 is at 0.5, and the padding is one pixel.
    return [np.round(line[:-1] - 0.5, 2).ravel().tolist() for line in lines]
