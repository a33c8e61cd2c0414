"""Decoding of images on the host, to uint8 crops of one size, inside a tf.data pipeline."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from aggnets_jax.data import image_files
from aggnets_jax.data.dataset_info import DatasetInfo
from aggnets_jax.data.tf_runtime import import_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf

FORMATS = "JPEG, PNG, WebP, GIF, BMP or TIFF"

# TensorFlow's default is the approximate transform; PIL, with which most published networks were
# trained, uses the accurate one.
JPEG_TRANSFORM = "INTEGER_ACCURATE"
# Range of a random crop's part of the image's area, and of its width over its height.
CROP_AREA = (0.08, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)
CROP_TRIES = 10
# Bytes at the beginning of a JPEG among which EXIF data begin, if there are any, or the tables that
# come after them; only large data of another kind, such as a profile of colours, leave no room.
_JPEG_HEAD = 1 << 12
# Longer sides, relative to the other one, are cut before they are resized: whole, they would take
# gigabytes.
_LONGEST = 8
# Evaluation resizes the short side to this multiple of the crop's side: 256 for 224.
EVAL_RESIZE = 256 / 224


def image_decoder(channels: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a function from an encoded image to uint8 [H, W, channels], 1 (grey) or 3 (colour).

    It reads `FORMATS` with any channels: colours become grey, grey and palettes become colours, and
    transparency is dropped. Of several pictures it reads the first. Images that are stored turned
    or mirrored come upright, as from PIL's `exif_transpose`.
    """
    tf = import_tensorflow()
    # Grey is made from colours, because TensorFlow decodes no CMYK JPEG to one channel.
    stored = 3 if channels == 1 else channels

    def decode(encoded: tf.Tensor) -> tf.Tensor:
        image = tf.case(
            [
                (tf.io.is_jpeg(encoded), lambda: _decode_jpeg(encoded, stored)),
                (_is_png(encoded), lambda: tf.io.decode_png(encoded, stored)),
            ],
            default=lambda: tf.numpy_function(_decode_by_pil, [encoded], tf.uint8),
        )
        image = _turn(tf.ensure_shape(image, (None, None, stored)), _orientation(encoded))
        return tf.image.rgb_to_grayscale(image) if channels == 1 else image

    return decode


def _decode_jpeg(encoded: tf.Tensor, channels: int) -> tf.Tensor:
    return import_tensorflow().io.decode_jpeg(encoded, channels, dct_method=JPEG_TRANSFORM)


def _is_png(encoded: tf.Tensor) -> tf.Tensor:
    return import_tensorflow().strings.substr(encoded, 0, 4) == b"\x89PNG"


def _decode_by_pil(encoded: bytes) -> np.ndarray:
    """Return the image in bytes of a format for which TensorFlow is not used, uint8 [H, W, 3].

    TensorFlow has no decoder for TIFF, and its decoder for BMP refuses palettes.
    """
    try:
        return image_files.read_picture(encoded, formats=("BMP", "GIF", "TIFF", "WEBP"))
    except Exception as error:  # TensorFlow reports a ValueError as a wrong argument
        raise ValueError(str(error)) from error


def _orientation(encoded: tf.Tensor) -> tf.Tensor:
    """Return how a JPEG or PNG is stored, from 1 (upright) to 8 of EXIF's table, int32; else 1.

    Python runs only for the few images that tell it, a JPEG at its beginning.
    """
    tf = import_tensorflow()
    told = tf.case(
        [
            (tf.io.is_jpeg(encoded), lambda: _jpeg_may_tell(encoded)),
            (_is_png(encoded), lambda: _has_exif(encoded)),
        ],
        default=lambda: False,
    )

    def read() -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(_read_orientation, [encoded], tf.int32), ())

    return tf.cond(told, read, lambda: 1)


def _has_exif(part: tf.Tensor) -> tf.Tensor:
    pattern = r"\C*(?:Exif|eXIf|exif|xap/1|adobe\.xmp)\C*"
    return import_tensorflow().strings.regex_full_match(part, pattern)


def _jpeg_may_tell(encoded: tf.Tensor) -> tf.Tensor:
    """Return whether a JPEG has EXIF data, or so long a head that they may come later."""
    tf = import_tensorflow()
    head = tf.strings.substr(encoded, 0, _JPEG_HEAD)
    values = tf.io.decode_raw(head, tf.uint8)
    tables = (values[:-2] == 0xFF) & (values[1:-1] == 0xDB) & (values[2:] == 0)
    return _has_exif(head) | ~tf.reduce_any(tables)


def _read_orientation(encoded: bytes) -> np.int32:
    try:
        image = Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG"))
    except Exception:  # TensorFlow reports the damage
        return np.int32(1)
    return np.int32(image_files.orientation(image))


def _turn(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Return an image [H, W, C] upright, given EXIF's number of how it is stored."""
    tf = import_tensorflow()
    upright = tf.cond(orientation >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
    mirrored = tf.reduce_any(orientation == (2, 3, 6, 7))
    upside_down = tf.reduce_any(orientation == (3, 4, 7, 8))
    upright = tf.cond(mirrored, lambda: upright[:, ::-1], lambda: upright)
    return tf.cond(upside_down, lambda: upright[::-1], lambda: upright)


def train_image(
    info: DatasetInfo, seed: int
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]:
    """Return encoded, epoch, index -> uint8 [H, W, C]: cropped and resized, or as stored."""
    tf = import_tensorflow()
    if not info.resized:
        decode = image_decoder(info.image_shape[-1])
        return lambda encoded, epoch, index: tf.ensure_shape(decode(encoded), info.image_shape)
    part = random_part(info, seed)

    def crop(encoded: tf.Tensor, epoch: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        image = _resize(part(encoded, epoch, index), info.image_shape[:2])
        return _to_uint8(image, info.image_shape)

    return crop


def random_part(
    info: DatasetInfo, seed: int
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]:
    """Return encoded, epoch, index -> uint8 [h, w, C], a random part of the image as stored."""
    tf = import_tensorflow()
    channels = info.image_shape[-1]
    decode = image_decoder(channels)

    def part(encoded: tf.Tensor, epoch: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        example_seed = tf.random.fold_in(tf.stack([tf.constant(seed, tf.int64), epoch]), index)
        return _random_crop(encoded, example_seed, decode, channels)

    return part


def eval_image(info: DatasetInfo, any_size: bool = False) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return encoded -> uint8 [H, W, C]: short side resized and centre cropped, or as stored.

    With `any_size`, if the data set's images have one size, others are resized to it as a whole.
    """
    tf = import_tensorflow()
    decode, shape = image_decoder(info.image_shape[-1]), info.image_shape
    if not info.resized:
        if any_size:
            return lambda encoded: _to_uint8(_resize(decode(encoded), shape[:2]), shape)
        return lambda encoded: tf.ensure_shape(decode(encoded), shape)
    size = shape[0]
    short_side = round(size * EVAL_RESIZE)

    def centre(encoded: tf.Tensor) -> tf.Tensor:
        image = decode(encoded)
        extent = tf.shape(image)[:2]
        longest = _LONGEST * tf.reduce_min(extent)
        part = tf.minimum(extent, longest + (extent - longest) % 2)  # with the same centre
        top, left = tf.unstack((extent - part) // 2)
        image = image[top : top + part[0], left : left + part[1]]
        extent = part * short_side // tf.reduce_min(part)
        top, left = tf.unstack((extent - size) // 2)
        image = _resize(image, extent)[top : top + size, left : left + size]
        return _to_uint8(image, shape)

    return centre


def _random_crop(
    encoded: tf.Tensor, seed: tf.Tensor, decode: Callable[[tf.Tensor], tf.Tensor], channels: int
) -> tf.Tensor:
    """Return a random part of an image; of an upright JPEG only this part is decoded."""
    tf = import_tensorflow()

    def from_jpeg() -> tf.Tensor:
        window = _random_window(tf.image.extract_jpeg_shape(encoded), seed)
        return tf.image.decode_and_crop_jpeg(
            encoded, window, channels=channels, dct_method=JPEG_TRANSFORM
        )

    def from_other() -> tf.Tensor:
        image = decode(encoded)
        top, left, height, width = tf.unstack(_random_window(tf.shape(image), seed))
        return image[top : top + height, left : left + width]

    upright_jpeg = tf.cond(
        tf.io.is_jpeg(encoded), lambda: _orientation(encoded) == 1, lambda: False
    )
    return tf.cond(upright_jpeg, from_jpeg, from_other)


def _random_window(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Return top, left, height and width of a random part of an image: int32 [4].

    The area is uniform in CROP_AREA and the logarithm of the aspect is uniform between the
    logarithms of CROP_ASPECT. Both are drawn again while the part does not fit; if it never fits,
    it is the largest part in the centre with an allowed aspect. PyTorch, from which the recipes
    come, does the same. `tf.image`'s own sampler makes the height uniform, so its parts are
    smaller.
    """
    tf = import_tensorflow()
    size_seed, place_seed = tf.unstack(tf.random.split(seed, 2))
    whole = tf.cast(shape[:2], tf.float32)
    draws = tf.random.stateless_uniform([2, CROP_TRIES], size_seed)
    low, high = CROP_AREA
    area = (low + (high - low) * draws[0]) * tf.reduce_prod(whole)
    low, high = np.log(CROP_ASPECT).astype(np.float32)
    aspect = tf.exp(low + (high - low) * draws[1])
    extents = tf.round(tf.sqrt(area * tf.stack([1 / aspect, aspect])))
    fits = tf.reduce_all((extents >= 1) & (extents <= whole[:, tf.newaxis]), axis=0)
    widest = tf.stack([1 / CROP_ASPECT[0], CROP_ASPECT[1]])  # relative to the other side
    largest = tf.round(tf.minimum(whole, whole[::-1] * widest))
    one_fits = tf.reduce_any(fits)
    extent = tf.where(one_fits, extents[:, tf.argmax(tf.cast(fits, tf.int32))], largest)
    anywhere = tf.random.stateless_uniform([2], place_seed) * (whole - extent + 1)
    begin = tf.floor(tf.where(one_fits, anywhere, (whole - extent) / 2))
    return tf.cast(tf.concat([begin, extent], axis=0), tf.int32)


def _resize(image: tf.Tensor, size: tuple[int, int] | tf.Tensor) -> tf.Tensor:
    """Return an image [h, w, C] in another size, float32 [*size, C]: linear, with antialiasing."""
    tf = import_tensorflow()
    image = tf.transpose(_resize_height(image, size[0]), (1, 0, 2))
    return tf.transpose(_resize_height(image, size[1]), (1, 0, 2))


def _resize_height(image: tf.Tensor, height: int | tf.Tensor) -> tf.Tensor:
    """Return an image [h, w, C] in another height, float32 [height, w, C].

    TensorFlow's loop over pixels is slow, the one over channels is not: all pixels of a row become
    the channels of one. The values are those of resizing both sides at once, to the bit.
    """
    tf = import_tensorflow()
    shape = tf.shape(image)
    rows = tf.reshape(image, (shape[0], 1, -1))
    rows = tf.image.resize(rows, (height, 1), method="bilinear", antialias=True)
    return tf.reshape(rows, (height, shape[1], image.shape[2]))


def _to_uint8(image: tf.Tensor, shape: tuple[int, int, int]) -> tf.Tensor:
    tf = import_tensorflow()
    # Linear interpolation stays within 0..255, so nothing need be clipped.
    return tf.ensure_shape(tf.cast(tf.round(image), tf.uint8), shape)
