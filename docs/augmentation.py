"""Draws docs/augmentation.png, what each augmentation does: python docs/augmentation.py."""

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_sample_image

from aggnets_jax.config import default_config
from aggnets_jax.data import DatasetInfo, make_mix, make_preprocess
from aggnets_jax.data.decoding import train_image

# Of `config.data`, beside no crops and no flips; lengths as parts of the side.
ROWS = {
    "crop_padding and flip": {"crop_padding": 1 / 8, "flip": True},
    "policy: autoaugment_cifar": {"policy": "autoaugment_cifar"},
    "policy: autoaugment_imagenet": {"policy": "autoaugment_imagenet"},
    "policy: randaugment": {"policy": "randaugment"},
    "color_jitter: 0.4": {"color_jitter": 0.4},
    "lighting: 1.0 (the recipes have 0.1)": {"lighting": 1.0},
    "erasing: 1.0": {"erasing": 1.0},
    "cutout: half of the side": {"cutout": 1 / 2},
    'mixup: 1.0, mix_ratio_per: "sample"': {"mixup": 1.0, "mix_ratio_per": "sample"},
    'cutmix: 1.0, mix_ratio_per: "sample"': {"cutmix": 1.0, "mix_ratio_per": "sample"},
}
COLUMNS = 8


def photograph(name: str, side: int) -> np.ndarray:
    """Return the middle of a photograph of scikit-learn: uint8 [side, side, 3]."""
    image = Image.fromarray(load_sample_image(name))
    margin = (image.width - image.height) // 2
    image = image.crop((margin, 0, image.width - margin, image.height))
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def photographs(side: int) -> DatasetInfo:
    """Return a data set of two photographs."""
    return DatasetInfo(
        name="photographs",
        num_classes=2,
        class_names=("china", "flower"),
        image_shape=(side, side, 3),
        num_train=2,
        num_eval=1,
        train_split="train",
        eval_split="test",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        resident=True,
        resized=False,
    )


def cropped(side: int) -> np.ndarray:
    """COLUMNS parts of one image, as the host cuts and resizes them: as `augmented`."""
    file = io.BytesIO()
    Image.fromarray(photograph("china.jpg", 4 * side)).save(file, "JPEG")
    crop = train_image(dataclasses.replace(photographs(side), resized=True), seed=0)
    return np.stack([crop(file.getvalue(), np.int64(0), np.int64(i)) for i in range(COLUMNS)]) / 255


def augmented(fields: Mapping[str, float | str], side: int) -> np.ndarray:
    """COLUMNS augmentations of one image, on the scale 0..1: float32 [COLUMNS, side, side, 3].

    If images are mixed, they are mixed with another.
    """
    config = default_config().data
    config.update({"crop_padding": 0, "flip": False})
    for name, value in fields.items():
        setattr(config, name, round(value * side) if name in ("crop_padding", "cutout") else value)
    info = photographs(side)
    images = np.stack([photograph(name, side) for name in ("china.jpg", "flower.jpg")])
    chosen = np.arange(2 * COLUMNS) // COLUMNS  # half of the batch is each
    batch = {
        "image": jnp.asarray(images[chosen]),
        "epoch": jnp.zeros(len(chosen), jnp.int32),
        "index": jnp.arange(len(chosen)),
    }
    out = make_preprocess(config, info)(batch, train=True)
    if mix := make_mix(config):
        out, _ = mix(out, jnp.eye(2)[chosen], batch, 0)
    return np.clip(np.asarray(out) * info.std + info.mean, 0, 1)[:COLUMNS]


def draw(file: Path, side: int = 64) -> None:
    """Draws a row of examples for each augmentation."""
    rows = {"random crop of images that vary in size": cropped(side)}
    rows |= {title: augmented(fields, side) for title, fields in ROWS.items()}
    figure = Figure(figsize=(1.5 * COLUMNS, 1.75 * len(rows)), dpi=60)
    parts = figure.subfigures(len(rows))
    for part, (title, images) in zip(parts, rows.items(), strict=True):
        part.suptitle(title, x=0.01, ha="left", fontsize=11)
        axes = part.subplots(1, COLUMNS, gridspec_kw={"wspace": 0.03})
        part.subplots_adjust(left=0.005, right=0.995, bottom=0.01, top=0.86)
        for place, image in zip(axes, images, strict=True):
            place.imshow(image)
            place.set_axis_off()
    figure.savefig(file)


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".png"))
