"""Augmentation of training images, on the devices, as pure functions of keys.

Each augments one image, `(key, image) -> image`, and is mapped over a batch with keys that follow
from (seed, epoch, index); only mixing looks at several images.
"""
