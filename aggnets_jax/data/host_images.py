"""From encoded images to uint8 crops of one size, inside a tf.data pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from aggnets_jax.data.info import DatasetInfo
from aggnets_jax.data.reading import JPEG_TRANSFORM, image_decoder
from aggnets_jax.data.tf_runtime import import_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf

# Random crops: part of the image's area, and width over height.
CROP_AREA = (0.08, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)
# Evaluation resizes the short side to this multiple of the crop's: 256 for 224.
EVAL_RESIZE = 256 / 224


def train_image(
    info: DatasetInfo, seed: int
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]:
    """Returns encoded, epoch, index -> uint8 [H, W, C]: cropped and resized, or as stored."""
    tf = import_tensorflow()
    decode = image_decoder(info.image_shape[-1])
    if not info.resized:
        return lambda encoded, epoch, index: tf.ensure_shape(decode(encoded), info.image_shape)
    size = info.image_shape[:2]

    def crop(encoded: tf.Tensor, epoch: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        example_seed = tf.random.fold_in(tf.stack([tf.constant(seed, tf.int64), epoch]), index)
        image = _random_crop(encoded, example_seed, decode, info.image_shape[-1])
        return _to_uint8(_resize(image, size), info.image_shape)

    return crop


def _random_crop(
    encoded: tf.Tensor, seed: tf.Tensor, decode: Callable[[tf.Tensor], tf.Tensor], channels: int
) -> tf.Tensor:
    """Returns a random part of an image; of a JPEG only that part is decoded."""
    tf = import_tensorflow()

    def sample(shape: tf.Tensor) -> tf.Tensor:
        begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            shape,
            bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
            seed=seed,
            min_object_covered=0.0,
            aspect_ratio_range=CROP_ASPECT,
            area_range=CROP_AREA,
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        return tf.concat([begin[:2], extent[:2]], axis=0)

    def from_jpeg() -> tf.Tensor:
        window = sample(tf.image.extract_jpeg_shape(encoded))
        return tf.image.decode_and_crop_jpeg(
            encoded, window, channels=channels, dct_method=JPEG_TRANSFORM
        )

    def from_other() -> tf.Tensor:
        image = decode(encoded)
        top, left, height, width = tf.unstack(sample(tf.shape(image)))
        return image[top : top + height, left : left + width]

    return tf.cond(tf.io.is_jpeg(encoded), from_jpeg, from_other)


def eval_image(info: DatasetInfo) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns encoded -> uint8 [H, W, C]: short side resized and centre cropped, or as stored."""
    tf = import_tensorflow()
    decode = image_decoder(info.image_shape[-1])
    if not info.resized:
        return lambda encoded: tf.ensure_shape(decode(encoded), info.image_shape)
    size = info.image_shape[0]
    short_side = round(size * EVAL_RESIZE)

    def centre(encoded: tf.Tensor) -> tf.Tensor:
        image = decode(encoded)
        extent = tf.shape(image)[:2]
        extent = extent * short_side // tf.reduce_min(extent)
        top, left = tf.unstack((extent - size) // 2)
        image = _resize(image, extent)[top : top + size, left : left + size]
        return _to_uint8(image, info.image_shape)

    return centre


def any_image(info: DatasetInfo) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns encoded -> uint8 [H, W, C], as `eval_image` for images of the data set.

    Others, where all of the data set's have one size, are resized to it as a whole.
    """
    if info.resized:
        return eval_image(info)
    decode = image_decoder(info.image_shape[-1])
    return lambda encoded: _to_uint8(
        _resize(decode(encoded), info.image_shape[:2]), info.image_shape
    )


def _resize(image: tf.Tensor, size: tuple[int, int] | tf.Tensor) -> tf.Tensor:
    return import_tensorflow().image.resize(image, size, method="bilinear", antialias=True)


def _to_uint8(image: tf.Tensor, shape: tuple[int, int, int]) -> tf.Tensor:
    tf = import_tensorflow()
    return tf.ensure_shape(tf.saturate_cast(tf.round(image), tf.uint8), shape)
