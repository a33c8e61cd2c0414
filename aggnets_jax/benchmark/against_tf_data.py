"""The streamed input beside tf.data as two examples write it for ImageNet, on the same JPEGs.

The examples are flax's `examples/imagenet/input_pipeline.py` and big_vision's
`pp/ops_image.py` and `input_pipeline.py`. All pipelines read the records of `data_folder`, take a
random part of each JPEG, resize and mirror it, and end with normalised float32 batches on the
devices. Two shorter forms of ours show where the host's time goes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from aggnets_jax import config as config_lib
from aggnets_jax import data
from aggnets_jax.benchmark.contenders import Contender
from aggnets_jax.benchmark.input_pipeline import data_folder
from aggnets_jax.benchmark.program import Program
from aggnets_jax.benchmark.workload import Workload
from aggnets_jax.data.catalog import open_prepared
from aggnets_jax.data.damage import Record, RecordDamage
from aggnets_jax.data.dataset_info import NORMALISATION, Split
from aggnets_jax.data.decoding import random_part, train_image
from aggnets_jax.data.host_pipeline import HostBatches
from aggnets_jax.data.record_order import BatchRows, train_records
from aggnets_jax.data.records import SplitReader
from aggnets_jax.data.tf_runtime import import_tensorflow
from aggnets_jax.errors import UserError
from aggnets_jax.runtime import mesh as mesh_lib

if TYPE_CHECKING:
    import tensorflow as tf

_NAME = "imagenet2012"
_LEAST_SIDE = 64
# Records in the shuffle buffers of all pipelines: the random images are few.
_SHUFFLED = 256


def tf_data_forms(workload: Workload, ours: Contender) -> list[Contender]:
    """Return the streamed input, parts of it, and the examples' pipelines.

    Raises:
      UserError: for small images, which are not stored as JPEGs.
    """
    if workload.image_shape[0] < _LEAST_SIDE:
        raise UserError(f"--against=tf.data needs images of {_LEAST_SIDE} pixels or more")

    def contender(form: str, program: Callable[[int, int], Program]) -> Contender:
        side = workload.image_shape[0]
        return ours._replace(form=form, build=lambda mode, batch_size: program(side, batch_size))

    return [
        contender("default", functools.partial(_ours, _whole)),
        contender("records alone", functools.partial(_ours, _nothing)),
        contender("without resizing", functools.partial(_ours, _part)),
        contender("tf.data flax", functools.partial(_example, _flax, 10)),
        contender("tf.data big_vision", functools.partial(_example, _big_vision, 2)),
    ]


def _program(
    batches: Callable[[int], Iterable[Any]], finish: Callable[[Any], jax.Array], batch_size: int
) -> Program:
    """Return a program that makes batches; between runs, no thread works ahead for the next."""
    batches = functools.cache(batches)

    def run(count: int) -> None:
        for batch in batches(count):
            images = finish(batch)
        jax.block_until_ready(images)

    return Program(run, batch_size, passes=0)


# ---- Ours.


def _ours(image: Callable[..., Any], side: int, batch_size: int) -> Program:
    """Return the streamed input with a function from (info, encoded image, record) to an image."""
    config = config_lib.resolve({"data": {"name": _NAME, "image_size": side}}).data
    config.data_dir = data_folder(_NAME)
    info = data.describe(config)
    split = Split(open_prepared(_NAME, config.data_dir), info, info.train_split, skip=False)
    preprocess = data.make_preprocess(config, info)
    augment = jax.jit(lambda batch: preprocess(batch, train=True))
    sharding = mesh_lib.batch_sharding(mesh_lib.make_mesh())
    rows, reader = BatchRows(batch_size, np.arange(batch_size)), SplitReader(split)
    make = image(info)

    def batches(count: int) -> HostBatches:
        records = train_records(reader, rows, seed=0, start_step=0, buffer_size=_SHUFFLED)
        records = records.take(count * batch_size)
        return HostBatches(split, records, reader.parse, RecordDamage(split), rows, make)

    def finish(batch: dict[str, np.ndarray]) -> jax.Array:
        return augment(mesh_lib.place_rows(batch, sharding, batch_size))

    return _program(batches, finish, batch_size)


def _whole(info: data.DatasetInfo) -> Callable[[tf.Tensor, Record], tf.Tensor]:
    crop = train_image(info, seed=0)
    return lambda encoded, record: crop(encoded, record["epoch"], record["index"])


def _part(info: data.DatasetInfo) -> Callable[[tf.Tensor, Record], tf.Tensor]:
    """Decode the part, and return an image of one of its values."""
    part = random_part(info, seed=0)

    def image(encoded: tf.Tensor, record: Record) -> tf.Tensor:
        found = part(encoded, record["epoch"], record["index"])
        return import_tensorflow().fill(info.image_shape, found[0, 0, 0])

    return image


def _nothing(info: data.DatasetInfo) -> Callable[[tf.Tensor, Record], tf.Tensor]:
    tf = import_tensorflow()
    return lambda encoded, record: tf.zeros(info.image_shape, tf.uint8)


# ---- The examples.


def _example(
    image: Callable[[tf.Tensor, int], tf.Tensor], prefetched: int, side: int, batch_size: int
) -> Program:
    tf = import_tensorflow()
    import tensorflow_datasets as tfds

    builder = open_prepared(_NAME, data_folder(_NAME))
    # Both examples ask for these; flax's line changes a copy of the options.
    options = tf.data.Options()
    options.threading.private_threadpool_size = 48
    options.threading.max_intra_op_parallelism = 1
    sharding = mesh_lib.batch_sharding(mesh_lib.make_mesh())

    def example(record: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        return image(record["image"], side), record["label"]

    def batches(count: int) -> Iterable[Any]:
        records = builder.as_dataset(
            split="train", decoders={"image": tfds.decode.SkipDecoding()}, shuffle_files=True
        )
        records = records.with_options(options).repeat().shuffle(_SHUFFLED).take(count * batch_size)
        images = records.map(example, num_parallel_calls=tf.data.AUTOTUNE)
        return images.batch(batch_size, drop_remainder=True).prefetch(prefetched)

    def finish(batch: tuple[tf.Tensor, tf.Tensor]) -> jax.Array:
        images, labels = (np.asarray(memoryview(x.numpy())) for x in batch)
        return jax.device_put((images, labels), sharding)[0]

    return _program(batches, finish, batch_size)


def _flax(encoded: tf.Tensor, side: int) -> tf.Tensor:
    tf = import_tensorflow()
    window = {"area_range": (0.08, 1.0), "min_object_covered": 0.1, "max_attempts": 10}
    part = _sampled_part(encoded, aspect_ratio_range=(3 / 4, 4 / 3), **window)
    image = tf.image.resize(part, (side, side), method="bicubic")
    image = tf.image.random_flip_left_right(tf.reshape(image, (side, side, 3)))
    mean, std = (255 * np.float32(x) for x in NORMALISATION["imagenet"])
    return (image - mean) / std


def _big_vision(encoded: tf.Tensor, side: int) -> tf.Tensor:
    tf = import_tensorflow()
    window = {"area_range": (0.05, 1.0), "min_object_covered": 0.0}
    part = _sampled_part(encoded, aspect_ratio_range=(0.75, 1.33), **window)
    image = tf.image.resize(part, (side, side), method="bilinear")
    image = tf.cast(tf.clip_by_value(image, 0, 255), tf.uint8)
    return tf.cast(tf.image.random_flip_left_right(image), tf.float32) / 127.5 - 1


def _sampled_part(encoded: tf.Tensor, **window: Any) -> tf.Tensor:
    """Decode a random part of a JPEG, drawn by TensorFlow's own sampler."""
    tf = import_tensorflow()
    begin, extent, _ = tf.image.sample_distorted_bounding_box(
        tf.image.extract_jpeg_shape(encoded),
        tf.zeros((0, 0, 4)),
        use_image_if_no_bounding_boxes=True,
        **window,
    )
    return tf.image.decode_and_crop_jpeg(encoded, tf.concat([begin[:2], extent[:2]], 0), 3)
