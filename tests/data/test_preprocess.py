"""Augmentation and normalisation on the device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax.data import DatasetInfo, make_preprocess
from tests.data.conftest import make_config

SIZE = 8
COUNT = 4096


def make_info(channels=1, resized=False):
    return DatasetInfo(
        name="made up",
        num_classes=2,
        class_names=("a", "b"),
        image_shape=(SIZE, SIZE, channels),
        num_train=COUNT,
        num_eval=1,
        train_split="train",
        eval_split="test",
        mean=(0.25, 0.5, 0.75)[:channels],
        std=(0.5, 0.25, 2.0)[:channels],
        resident=True,
        resized=resized,
    )


def make_batch(images):
    count = len(images)
    return {
        "image": jnp.asarray(images),
        "epoch": jnp.arange(count, dtype=jnp.int32) // 1000,
        "index": jnp.arange(count, dtype=jnp.int32) % 1000,
    }


def compiled(config, info):
    return jax.jit(make_preprocess(config, info), static_argnames="train")


def raw(preprocess, batch, info, seed=0):
    """Returns augmented images before normalisation, as whole numbers 0..255."""
    images = np.asarray(preprocess(batch, train=True, seed=seed))
    return np.round((images * np.array(info.std) + np.array(info.mean)) * 255).astype(int)


def augmented(seed=0, **changes):
    """Augments one image, whose pixels 1..64 tell where they came from, COUNT times."""
    info = make_info()
    config = make_config("made up", None, **{"crop_padding": 2, "flip": False} | changes)
    image = np.arange(1, SIZE * SIZE + 1, dtype=np.uint8).reshape(SIZE, SIZE, 1)
    batch = make_batch(np.tile(image, (COUNT, 1, 1, 1)))
    return raw(compiled(config, info), batch, info, seed)[..., 0], image[..., 0]


def test_crops_are_the_padded_images_own_and_uniform():
    crops, image = augmented()
    padded = np.pad(image, 2)  # zeros: black before the normalisation
    windows = {
        padded[top : top + SIZE, left : left + SIZE].astype(int).tobytes(): (top, left)
        for top in range(5)
        for left in range(5)
    }
    counts = np.zeros((5, 5))
    for crop in crops:
        counts[windows[crop.tobytes()]] += 1  # KeyError: no window of the padded image
    expected = COUNT / 25
    # Chi-square with 24 degrees of freedom: 60 is exceeded once in 15,000.
    assert ((counts - expected) ** 2 / expected).sum() < 60


def test_half_of_the_images_are_mirrored():
    images, image = augmented(crop_padding=0, flip=True)
    mirrored = (images == image[:, ::-1]).all((1, 2))
    assert ((images == image).all((1, 2)) | mirrored).all()
    assert abs(mirrored.sum() - COUNT / 2) < 4 * np.sqrt(COUNT / 4)


def test_crop_and_mirror_are_independent():
    images, image = augmented(flip=True)
    plain, _ = augmented(flip=False)
    mirrored = (images != plain).any((1, 2))
    assert np.array_equal(images[mirrored], plain[mirrored][:, :, ::-1])
    untouched = (plain == image).all((1, 2))  # the crop in the middle: one in 25
    assert 0.3 < mirrored[untouched].mean() < 0.7


def test_augmentation_is_a_function_of_seed_epoch_and_index():
    info = make_info()
    preprocess = compiled(make_config("made up", None), info)
    images = np.random.default_rng(0).integers(0, 256, (64, SIZE, SIZE, 1)).astype(np.uint8)
    batch = make_batch(images)
    whole = np.asarray(preprocess(batch, train=True))
    order = np.random.default_rng(1).permutation(64)
    parts = [
        np.asarray(preprocess({name: array[rows] for name, array in batch.items()}, train=True))
        for rows in np.split(order, 4)
    ]
    assert np.array_equal(np.concatenate(parts), whole[order])
    other_epoch = preprocess(batch | {"epoch": batch["epoch"] + 1}, train=True)
    other_seed = preprocess(batch, train=True, seed=1)
    assert not np.array_equal(other_epoch, whole)
    assert not np.array_equal(other_seed, whole)


def test_the_default_generator_does_not_matter():
    ours = augmented()[0]
    with jax.default_prng_impl("rbg"):
        assert np.array_equal(augmented()[0], ours)


@pytest.mark.parametrize("train", [True, False])
def test_only_normalised_in_evaluation_and_not_cropped_after_the_host(train):
    info = make_info(channels=3, resized=train)
    images = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3)).astype(np.uint8)
    batch = make_batch(images) if train else {"image": jnp.asarray(images)}
    out = make_preprocess(make_config("made up", None, flip=not train), info)(batch, train=train)
    assert out.dtype == jnp.float32
    assert out.shape == images.shape
    expected = (images / 255 - np.array(info.mean)) / np.array(info.std)
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_takes_uint8_only():
    preprocess = make_preprocess(make_config("made up", None), make_info())
    with pytest.raises(TypeError, match="uint8 images, not float32"):
        preprocess({"image": jnp.zeros((1, SIZE, SIZE, 1))}, train=False)
