"""Each corruption equals the authors' formula in numpy and SciPy, given the random numbers."""

import jax
import numpy as np
import pytest
from PIL import Image

from aggnets_jax.data.corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    make_corruption,
    read_frost,
)
from aggnets_jax.data.corruptions.jpeg import jpeg_compression
from aggnets_jax.data.corruptions.severities import LARGE, SMALL, constants
from aggnets_jax.errors import UserError
from tests.data.corruptions import reference
from tests.marks import mostly_slow

KEY = jax.random.key(3)
RGB = (20, 28, 3)


def make_image(shape):
    """Return a smooth image with edges and noise, and with black and white."""
    rng = np.random.default_rng(1)
    y, x = np.indices(shape[:2])
    waves = np.stack([np.sin(y / 3 + c) + np.cos(x / (2 + c)) for c in range(shape[-1])], -1)
    image = 128 + 60 * waves + rng.normal(0, 12, shape)
    image[2:6, 3:9], image[9:13, 1:5] = 255, 0
    return np.clip(image, 0, 255).astype(np.uint8)


def uniform(key, shape, low, high):
    return np.float64(jax.random.uniform(key, shape, minval=low, maxval=high))


def draws(name, image, fixed):
    """Return the random numbers of a corruption, as arguments of its formula."""
    shape, size = image.shape, image.shape[:2]
    two = jax.random.split(KEY)
    if name == "gaussian_noise":
        return [np.float64(jax.random.normal(KEY, shape))]
    if name == "shot_noise":
        return [np.asarray(jax.random.poisson(KEY, np.float32(image) / 255 * fixed[0]))]
    if name == "glass_blur":
        _, distance, times = fixed
        return [np.asarray(jax.random.randint(KEY, (times, *size, 2), -distance, distance))]
    if name == "motion_blur":
        return [uniform(KEY, (), -45, 45)]
    if name == "snow":
        normal = np.float64(jax.random.normal(two[0], (*size, 1)))
        return [normal, uniform(two[1], (), -135, -45)]
    if name == "fog":
        return [_plasma_noise(size)]
    if name == "elastic_transform":
        points, *fields = jax.random.split(KEY, 3)
        shift = fixed[2] * size[0]
        return [
            uniform(points, (3, 2), -shift, shift),
            [uniform(key, (*size, 1), -1, 1)[..., 0] for key in fields],
        ]
    return []


def _plasma_noise(size):
    found, key, n = [], KEY, 1
    while n < max(size):
        key, *keys = jax.random.split(key, 4)
        found.append([uniform(each, (n, n), -1, 1) for each in keys])
        n *= 2
    return found


def expected(name, severity, image):
    fixed = constants(name, severity, image.shape)
    numbers = draws(name, image, fixed)
    if name == "impulse_noise":
        hit, salt = jax.random.split(KEY)
        numbers = [
            np.asarray(jax.random.bernoulli(hit, fixed[0], image.shape)),
            np.asarray(jax.random.bernoulli(salt, 0.5, image.shape)),
        ]
        fixed = ()
    if name == "frost":
        height, width, _ = image.shape
        size = 2 ** int(np.ceil(np.log2(max(height, width))))
        ridges = 1 - np.abs(2 * reference.plasma(_plasma_noise(image.shape[:2]), size, 2) - 1)
        numbers = [ridges[:height, :width, None]]
    if name == "elastic_transform":
        fixed = tuple(image.shape[0] * length for length in fixed)
    found = getattr(reference, name)(image, *numbers, *fixed)
    return np.clip(found, 0, 1) * 255


def check(name, severity, shape):
    image = make_image(shape)
    found = jax.jit(make_corruption(name, severity, shape))(KEY, image)
    assert found.dtype == np.uint8 and found.shape == shape
    levels = expected(name, severity, image)
    # float32 can't tell a value just below a level from the level.
    reached = np.where(found == np.floor(levels + 2e-4), found, np.floor(levels + 1e-6))
    difference = np.abs(np.float64(found) - reached)
    # In these, values are rounded before they are moved.
    moved = name in ("glass_blur", "snow", "elastic_transform")
    assert difference.max() <= (2 if moved else 1)
    assert difference.mean() < 0.02
    assert np.any(np.asarray(found) != image)


@pytest.mark.parametrize("name", ["glass_blur", "zoom_blur", "elastic_transform"])
def test_a_corruption_is_its_formula(name):
    check(name, 3, RGB)


@pytest.mark.slow
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_is_its_formula(name):
    """At all severities, with the constants of CIFAR-10-C and ImageNet-C, and for grey images."""
    for severity in SEVERITIES:
        check(name, severity, RGB)
        check(name, severity, (72, 80, 3))
    check(name, 5, (16, 16, 1))


@pytest.mark.parametrize("quality", [7, 25, 58, 90])
@mostly_slow("shape", [RGB, (33, 18, 3), (21, 40, 1), (9, 3, 3)], quick=(2, 3))
def test_jpegs_are_pils_to_the_bit(shape, quality):
    image = make_image(shape)
    found = jpeg_compression(KEY, np.float32(image) / 255, quality)
    pils = reference.jpeg_compression(image, quality)
    np.testing.assert_array_equal(np.rint(255 * np.asarray(found)), np.rint(255 * pils))


def test_an_image_does_not_depend_on_its_batch():
    image = make_image((16, 16, 3))
    corrupt = make_corruption("gaussian_noise", 2, image.shape)
    keys = jax.random.split(KEY, 3)
    batch = jax.jit(jax.vmap(corrupt))(keys, np.stack([image] * 3))
    np.testing.assert_array_equal(batch[1], jax.jit(corrupt)(keys[1], image))
    assert np.any(batch[0] != batch[1])


def test_tables_have_five_severities_of_all_corruptions():
    for table in (SMALL, LARGE):
        assert tuple(table) == CORRUPTIONS
        assert {len(rows) for rows in table.values()} == {5}


def test_frost_is_a_part_of_a_photograph(tmp_path):
    photograph = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(photograph).save(tmp_path / "frost1.png")
    image = make_image((16, 16, 3))
    frost = read_frost(tmp_path, small=False)
    found = np.int64(jax.jit(make_corruption("frost", 5, image.shape, frost))(KEY, image))
    own, added = constants("frost", 5, image.shape)
    parts = [
        np.floor(np.clip(own * image + added * photograph[y : y + 16, x : x + 16], 0, 255))
        for y in range(24)
        for x in range(34)
    ]
    assert min(np.abs(part - found).max() for part in parts) <= 1
    with pytest.raises(UserError, match="40x50 pixels are too small"):
        make_corruption("frost", 5, (48, 48, 3), frost)


def test_frost_without_photographs_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"frost1\.png"):
        read_frost(tmp_path, small=True)


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="nearest: gaussian_noise"):
        make_corruption("gausian_noise", 1, (8, 8, 1))
    with pytest.raises(UserError, match="severity '6'"):
        make_corruption("fog", 6, (8, 8, 1))
