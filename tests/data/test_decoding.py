"""Crops and resizing on the host, against PIL and against what the crops show of themselves."""

import dataclasses
import io
import math

import numpy as np
import pytest
import scipy.stats
from PIL import ExifTags, Image

from aggnets_jax.data import describe, eval_batches, train_batches
from aggnets_jax.data.decoding import _random_window, eval_image, image_decoder, train_image
from aggnets_jax.data.tf_runtime import import_tensorflow
from tests.data.conftest import make_config
from tests.data.test_batches import join, take
from tests.marks import mostly_slow

WIDTH, HEIGHT = 240, 180
COUNT = 400


@mostly_slow("size", [24, 56], quick=(0,))
def test_evaluation_is_pils_resize_and_centre_crop(imagenet, sharding, size):
    data_dir, official = imagenet
    config = make_config("imagenet2012", data_dir, image_size=size)
    seen = join(take(eval_batches(config, batch_size=4, sharding=sharding), 10))
    images, labels = seen["image"][seen["mask"]], seen["label"][seen["mask"]]
    expected = [
        (pil_centre_crop(data, size), label) for data, label in official["validation"].values()
    ]
    assert len(images) == len(expected) == 10
    matched = set()
    for image, label in zip(images, labels, strict=True):
        distances = [np.abs(image.astype(int) - crop).max() for crop, _ in expected]
        nearest = int(np.argmin(distances))
        assert distances[nearest] <= 1  # rounding
        assert expected[nearest][1] == label
        matched.add(nearest)
    assert len(matched) == 10


def pil_centre_crop(data, size):
    """Return int [size, size, 3], as torchvision's Resize(256 / 224 of it) and CenterCrop do."""
    image = Image.open(io.BytesIO(data))
    short = round(size * 256 / 224)
    scale = short / min(image.size)
    width, height = (math.floor(side * scale + 1e-9) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size))).astype(int)


def jpeg(pixels, exif, profile):
    """A JPEG whose EXIF data come after those of a profile of colours, if there is one."""
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "JPEG", exif=exif)
        content = file.getvalue()
    segment = b"ICC_PROFILE\0\1\1" + bytes(profile)
    length = (len(segment) + 2).to_bytes(2, "big")
    return content[:2] + (b"\xff\xe2" + length + segment if profile else b"") + content[2:]


@pytest.mark.parametrize("profile", [0, 6000, 60_000])
def test_orientations_after_a_long_profile_are_found(profile):
    decode = import_tensorflow().function(image_decoder(3))
    exif = Image.Exif()
    for orientation, shape in ((None, (20, 30, 3)), (6, (30, 20, 3))):
        if orientation:
            exif[ExifTags.Base.Orientation] = orientation
        encoded = jpeg(np.zeros((20, 30, 3), np.uint8), exif, profile)
        assert decode(import_tensorflow().constant(encoded)).shape == shape


@pytest.mark.parametrize(("height", "width"), [(2, 8001), (8000, 2), (1, 9)])
def test_very_long_images_are_evaluated_by_their_centre(height, width, tmp_path):
    """Resized whole, they would take gigabytes."""
    pixels = np.zeros((height, width), np.uint8)
    rows, columns = (slice(max(0, side // 2 - 2), side // 2 + 3) for side in pixels.shape)
    pixels[rows, columns] = 200
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "PNG")
        encoded = file.getvalue()
    info = dataclasses.replace(
        describe(make_config("aggnets_digits", tmp_path)), resized=True, image_shape=(16, 16, 1)
    )
    image = eval_image(info)(import_tensorflow().constant(encoded))
    assert image.shape == (16, 16, 1)
    assert np.asarray(image).min() > 150


def test_training_crops_are_uint8_of_the_size(imagenet, sharding):
    config = make_config("imagenet2012", imagenet[0], image_size=40)
    (batch,) = take(train_batches(config, batch_size=30, seed=0, sharding=sharding), 1)
    assert batch["image"].shape == (30, 40, 40, 3)
    assert batch["image"].dtype == np.uint8
    assert batch["image"].std((1, 2, 3)).min() > 5  # pictures, none of them empty
    assert set(batch["label"]) == {0, 1, 2}


@pytest.fixture(scope="module")
def crops(imagenet):
    """{format: uint8 [COUNT, 32, 32, 3]} of a picture that shows x in red and y in green."""
    tf = import_tensorflow()
    info = describe(make_config("imagenet2012", imagenet[0], image_size=32))
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    picture = Image.fromarray(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8))
    found = {}
    for form in ("JPEG", "PNG"):
        file = io.BytesIO()
        picture.save(file, form, **({"quality": 100, "subsampling": 0} if form == "JPEG" else {}))
        crop = train_image(info, seed=0)
        encoded = tf.data.Dataset.from_tensors(file.getvalue()).repeat(COUNT)
        images = encoded.enumerate().map(lambda k, data, crop=crop: crop(data, k // 50, k % 50))
        found[form] = np.stack(list(images.as_numpy_iterator()))
    return found


def window(images):
    """Return left, right, top, bottom edges in the picture, float [N] each.

    A crop's outermost pixels lie half of a pixel inside its edges; one pixel of 32 from the middle
    of the picture outwards is used, where smoothing has not bent the gradient.
    """
    red, green = images[..., 0].mean(1, dtype=float), images[..., 1].mean(2, dtype=float)

    def edges(line):
        slope = (line[:, 27] - line[:, 4]) / 23
        first = line[:, 4] - 4.5 * slope
        return first, first + 32 * slope

    return *edges(red), *edges(green)


def test_random_crops_have_the_stated_areas_aspects_and_places(crops):
    """Area and log aspect are uniform, of those that fit into the picture; places, too."""
    left, right, top, bottom = window(crops["PNG"])
    width, height = right - left, bottom - top
    rng = np.random.default_rng(0)
    area = rng.uniform(0.08, 1, 50_000) * WIDTH * HEIGHT
    aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), 50_000))
    fits = (np.sqrt(area * aspect) <= WIDTH) & (np.sqrt(area / aspect) <= HEIGHT)
    assert scipy.stats.ks_2samp(width * height, area[fits]).pvalue > 1e-3
    assert scipy.stats.ks_2samp(width / height, aspect[fits]).pvalue > 1e-3
    for first, room in ((left, WIDTH - width), (top, HEIGHT - height)):
        place = (first / room)[room > 20]
        assert scipy.stats.kstest(place, "uniform").pvalue > 1e-3
    assert 0.07 < (width * height).min() / (WIDTH * HEIGHT) < 0.11
    # Edges are whole pixels, and found up to about one.
    assert 0.71 < (width / height).min() < (width / height).max() < 1.4


def test_crops_of_a_panorama_are_the_largest_of_an_allowed_aspect():
    """No window of at least 8 % of the area fits into the narrow side."""
    tf = import_tensorflow()
    for height, width in ((10, 1000), (1000, 10)):
        windows = np.stack(
            [_random_window(tf.constant([height, width, 3]), tf.constant([0, k])) for k in range(9)]
        )
        top, left, tall, wide = windows.T
        assert set(zip(tall, wide, strict=True)) == {(min(13, height), min(13, width))}
        assert set(zip(top, left, strict=True)) == {
            ((height - min(13, height)) // 2, (width - min(13, width)) // 2)
        }


def test_crops_of_tiny_images_hold_a_pixel():
    tf = import_tensorflow()
    for side in (1, 2, 3):
        for k in range(60):
            window = _random_window(tf.constant([side, side, 1]), tf.constant([0, k])).numpy()
            assert (window[2:] >= 1).all()
            assert (window[:2] + window[2:] <= side).all()


def test_crops_depend_on_epoch_and_index(crops):
    """The fixture's images are 50 examples in 8 epochs."""
    assert len({crop.tobytes() for crop in crops["PNG"]}) == COUNT


def test_cropping_while_decoding_a_jpeg_changes_nothing(crops):
    """The same windows, pixel for pixel up to the JPEG's own error, as from the whole PNG."""
    difference = crops["JPEG"].astype(int) - crops["PNG"]
    assert np.abs(difference).max() <= 3


def test_resized_grey_images_keep_one_channel(cifar10, odd_sets, sharding):
    grey = make_config("aggnets_grey_shapes", odd_sets, image_size=12, eval_split="train")
    seen = join(take(eval_batches(grey, batch_size=3, sharding=sharding), 3))
    assert seen["image"].shape == (9, 12, 12, 1)
    assert np.array_equal(seen["image"][seen["mask"]].mean((1, 2, 3)), 20 * np.arange(7))


def test_sets_of_a_fixed_size_can_be_resized_too(cifar10, sharding):
    config = make_config("cifar10", cifar10[0], resident="never", image_size=24)
    (batch,) = take(train_batches(config, batch_size=5, seed=0, sharding=sharding), 1)
    assert batch["image"].shape == (5, 24, 24, 3)
    assert (
        sum(len(b["image"]) for b in eval_batches(config, batch_size=25, sharding=sharding)) == 50
    )
