"""Folders of images, made for a test."""

import numpy as np
from PIL import Image

COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (210, 50, 40)}


def make_image_folder(folder, splits, classes=tuple(COLOURS), seed=0):
    """Write noisy JPEGs of a colour and of many sizes: FOLDER/SPLIT/CLASS/K.jpg.

    `splits` has the number of images of each class.
    """
    generator = np.random.default_rng(seed)
    for split, count in splits.items():
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            for k in range(count):
                height, width = generator.integers(20, 60, 2)
                noise = generator.normal(0, 25, (height, width, 3))
                image = np.clip(COLOURS[name] + noise, 0, 255).astype(np.uint8)
                Image.fromarray(image).save(folder / split / name / f"{k}.jpg", quality=95)
    return folder
