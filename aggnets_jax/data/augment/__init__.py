"""Augmentation of training images, on the devices, as pure functions of keys.

Each function changes one image, `(key, image) -> image`, and is mapped over a batch with keys that
depend on (seed, epoch, index). Only `mix` combines several images.
"""
