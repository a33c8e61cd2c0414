"""Augmentation and normalisation on the device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax.data import DatasetInfo, make_preprocess
from aggnets_jax.errors import UserError
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
    """Return augmented images before normalisation, as whole numbers 0..255."""
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


def test_images_are_mirrored_in_every_other_epoch():
    """Beginning with one half of them."""
    images, image = augmented(crop_padding=0, flip=True, flip_alternately=True)
    mirrored = (images == image[:, ::-1]).all((1, 2))[:3000].reshape(3, 1000)  # by epoch, index
    assert ((images == image) | (images == image[:, ::-1])).all((1, 2)).all()
    np.testing.assert_array_equal(mirrored[1], ~mirrored[0])
    np.testing.assert_array_equal(mirrored[2], mirrored[0])
    assert 400 < mirrored[0].sum() < 600


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
    out = compiled(make_config("made up", None, flip=not train), info)(batch, train=train)
    assert out.dtype == jnp.float32
    assert out.shape == images.shape
    expected = (images / 255 - np.array(info.mean)) / np.array(info.std)
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_takes_uint8_only():
    preprocess = make_preprocess(make_config("made up", None), make_info())
    with pytest.raises(TypeError, match="uint8 images, not float32"):
        preprocess({"image": jnp.zeros((1, SIZE, SIZE, 1))}, train=False)


EVERYTHING = {
    "crop_padding": 2,
    "flip": True,
    "policy": "randaugment",
    "color_jitter": 0.4,
    "lighting": 0.1,
    "erasing": 0.5,
    "cutout": 3,
}
NOTHING = {
    "crop_padding": 0,
    "flip": False,
    "policy": "none",
    "color_jitter": 0.0,
    "lighting": 0.0,
    "erasing": 0.0,
    "cutout": 0,
}


def changed(images, only):
    """Return images with some of the augmentations."""
    fields = {name: EVERYTHING[name] for name in only}
    config = make_config("made up", None, **NOTHING | fields)
    return np.asarray(compiled(config, make_info(3))(make_batch(images), train=True))


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (256, SIZE, SIZE, 3)).astype(np.uint8)


@pytest.mark.slow
def test_every_augmentation_is_a_function_of_seed_epoch_and_index(pictures):
    preprocess = compiled(make_config("made up", None, **EVERYTHING), make_info(3))
    batch = make_batch(pictures[:64])
    whole = np.asarray(preprocess(batch, train=True, seed=2))
    rows = np.random.default_rng(1).permutation(64)[:40]
    part = {name: array[rows] for name, array in batch.items()}
    # Only the last roundings, of lighting and normalisation, may differ between programs.
    np.testing.assert_allclose(preprocess(part, train=True, seed=2), whole[rows], atol=1e-6)
    assert np.mean(np.asarray(preprocess(batch, train=True, seed=3)) != whole) > 0.5


@pytest.mark.slow
def test_what_comes_first_does_not_change_what_comes_later(pictures):
    """Black images are the same after crops and flips."""
    black = np.zeros_like(pictures)
    later = {"policy", "lighting", "erasing", "cutout"}
    ours, with_earlier = (
        changed(black, only=names) for names in (later, {*later, "crop_padding", "flip"})
    )
    np.testing.assert_allclose(ours, with_earlier, atol=1e-6)


@pytest.mark.slow
def test_what_comes_later_does_not_change_what_came_first(pictures):
    """Where a square or a rectangle does not cover the image, it is that without them."""
    earlier = {"flip", "color_jitter"}
    uncovered = changed(pictures, only=earlier)
    whole = changed(pictures, only={*earlier, "erasing", "cutout"})
    plain = changed(pictures, only=set())
    covered = np.zeros(plain.shape[:3], bool)
    for name in ("erasing", "cutout"):
        covered |= (np.abs(changed(pictures, only={name}) - plain) > 1e-5).any(-1)
    assert 0.1 < covered.mean() < 0.3
    np.testing.assert_allclose(whole[~covered], uncovered[~covered], atol=1e-6)
    lit = changed(pictures, only={*earlier, "lighting"})
    assert np.ptp(lit - uncovered, axis=(1, 2)).max() < 1e-3
    assert np.std(lit - uncovered) > 0.01


def test_cutouts_are_zero_after_normalisation(pictures):
    out = changed(pictures, only={"cutout"})
    zeros = (out == 0).all(-1).sum((1, 2))
    assert zeros.max() == 9 and zeros.min() == 4  # in a corner


def test_seeds_may_be_traced(pictures):
    preprocess = make_preprocess(make_config("made up", None), make_info(3))
    batch = make_batch(pictures[:16])
    several = jax.jit(jax.vmap(lambda seed: preprocess(batch, train=True, seed=seed)))(
        jnp.arange(3, 6)
    )
    known = compiled(make_config("made up", None), make_info(3))
    for seed, images in zip(range(3, 6), several, strict=True):
        ours = known(batch, train=True, seed=seed)
        np.testing.assert_allclose(images, ours, atol=1e-6)


def test_images_that_the_host_has_cropped_are_flipped_and_all_that_follows(pictures):
    fields = NOTHING | {"crop_padding": 2, "flip": True, "lighting": 0.1}
    preprocess = compiled(make_config("made up", None, **fields), make_info(3, resized=True))
    ours = preprocess(make_batch(pictures), train=True)
    np.testing.assert_allclose(ours, changed(pictures, only={"flip", "lighting"}), atol=1e-6)


def test_evaluation_augments_nothing(pictures):
    config = make_config("made up", None, **EVERYTHING)
    out = compiled(config, make_info(3))({"image": jnp.asarray(pictures)}, train=False)
    np.testing.assert_allclose(out, changed(pictures, only=set()), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "channels", "message"),
    [
        ({"policy": "random"}, 3, "unknown policy 'random'; nearest: randaugment"),
        ({"policy": "randaugment"}, 2, "policy='randaugment' needs images of 1 or 3 channel"),
        ({"color_jitter": 0.4}, 2, "color_jitter=0.4 needs images of 1 or 3 channel"),
        ({"color_jitter": 1.5}, 3, "color_jitter must be a number from 0 to 1, got 1.5"),
        ({"lighting": 0.1}, 1, "lighting=0.1 needs images of 3 channel(s), and those of made up"),
        ({"lighting": -0.1}, 3, "lighting must be a number at least 0, and finite, got -0.1"),
        ({"erasing": 1.5}, 3, "erasing must be a number from 0 to 1, got 1.5"),
        ({"cutout": -2}, 3, "cutout must be a whole number of at least 0, got -2"),
        ({"cutout": 9}, 3, "cutout must be a whole number of at most 8, got 9"),
    ],
)
def test_wrong_values_are_errors(changes, channels, message):
    with pytest.raises(UserError) as error:
        make_preprocess(make_config("made up", None, **changes), make_info(channels))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_grey_images_can_be_augmented(pictures):
    config = make_config("made up", None, policy="randaugment", color_jitter=0.4)
    out = compiled(config, make_info(1))(make_batch(pictures[..., :1]), train=True)
    assert out.shape == (256, SIZE, SIZE, 1)
    assert np.isfinite(out).all()
