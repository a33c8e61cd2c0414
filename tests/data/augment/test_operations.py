"""Operations against PIL's, at every magnitude, on colours, noise and grey."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aggnets_jax.data.augment import pixels
from aggnets_jax.data.augment.operations import OPERATIONS, SIGNED, both_directions
from tests.data.augment import pil

PHOTO = pil.photo(47, 33)
IMAGES = {
    "photo": PHOTO,
    "noise": np.random.default_rng(0).integers(40, 200, (20, 20, 3)).astype(np.uint8),
    "grey": PHOTO[..., :1],
    "one level": np.full((20, 20, 3), 77, np.uint8),
    "two levels": np.where(PHOTO > 100, 60, 61).astype(np.uint8),
    "tiny": PHOTO[:2, :3],
}
# PIL truncates what it stretches: a rounding error below a whole number costs it a level.
ROUNDED = ("autocontrast", *pil.ENHANCEMENTS)

apply = jax.jit(lambda operation, image: operation(image))


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_operations_are_pils(image):
    assert set(OPERATIONS) == {*pil.SIGNED, *pil.OTHERS}
    for name, make in OPERATIONS.items():
        least = -9 if name in SIGNED else 0
        for magnitude in range(least, 10):
            ours = apply(make(magnitude / 9, image.shape[:2]), image)
            assert ours.dtype == np.uint8
            wrong = np.asarray(ours).astype(int) - pil.operate(name, magnitude / 9, image)
            assert np.abs(wrong).max() <= (name in ROUNDED), (name, magnitude)
            assert (wrong != 0).mean() < 0.06, (name, magnitude)


def test_no_contrast_is_the_rounded_mean_also_of_large_images():
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (h, w, 1), np.uint8) for h, w in ((1, 1), (3, 7), (20, 6))]
    images.append(np.repeat(np.array([250, 251], np.uint8), 1100)[:, None, None].repeat(2000, 1))
    for image in images:
        found = np.unique(pixels.enhance(jnp.asarray(image), pixels.CONTRAST, 0))
        assert found.tolist() == [np.floor(image.mean(dtype=np.float64) + 0.5)]


def test_the_identity_and_the_middle_of_a_range_change_nothing():
    for name in ("identity", *pil.SIGNED, "posterize", "solarize"):
        assert np.array_equal(apply(OPERATIONS[name](0, PHOTO.shape[:2]), PHOTO), PHOTO), name
    for name in pil.ENHANCEMENTS:
        assert np.array_equal(apply(OPERATIONS[name](0.5, PHOTO.shape[:2]), PHOTO), PHOTO), name


def test_directions():
    assert SIGNED == pil.SIGNED
    for name in OPERATIONS:
        one, other = both_directions(name, 0.7, (33, 47))
        same = all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
        assert same == (name not in SIGNED)


def test_a_batch_of_different_operations_is_one_program():
    names = ("rotate", "equalize", "color", "posterize")
    operations = [OPERATIONS[name](0.8, PHOTO.shape[:2]) for name in names]
    stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *operations)
    batch = jax.jit(jax.vmap(lambda operation: operation(jax.numpy.asarray(PHOTO))))(stacked)
    for name, image in zip(names, batch, strict=True):
        wrong = np.asarray(image).astype(int) - pil.operate(name, 0.8, PHOTO)
        assert np.abs(wrong).max() <= (name in ROUNDED)
