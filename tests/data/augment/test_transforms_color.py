"""Jitter and lighting: what they do is PIL's and the papers', and as random as they say."""

import itertools

import jax
import numpy as np
import pytest
import scipy.stats
from PIL import Image

from aggnets_jax.data.augment.transforms import COLOR_AXES, jitter, lighting
from tests.data.augment import pil
from tests.data.augment.draws import COUNT, over_keys


def test_jitter_changes_three_qualities_by_uniform_and_independent_factors():
    """Two greys and a colour, which no change clips.

    Contrast keeps the mean and the colour keeps greys, so the mean says the brightness' factor,
    the greys' difference that times the contrast's, and the colour all three.
    """
    image = np.full((3, 4, 3), 110, np.uint8)
    image[0], image[1, 0] = 140, (150, 110, 105)
    light = np.float64([0.299, 0.587, 0.114])
    out = over_keys(lambda key, image: jitter(key, image, strength=0.25), image).astype(float)
    brightness = (out @ light).mean((1, 2)) / (image @ light).mean()
    contrast = (out[:, 0, 0, 0] - out[:, 2, 0, 0]) / 30 / brightness
    color = (out[:, 1, 0, 0] - out[:, 1, 0, 2]) / 45 / brightness / contrast
    factors = np.stack([brightness, contrast, color])
    # Up to the rounding of small differences.
    assert np.abs(factors - 1).max() < 0.25 + 0.15
    np.testing.assert_allclose(factors.mean(1), 1, atol=0.025)
    np.testing.assert_allclose(factors.std(1), 0.25 / np.sqrt(3), rtol=0.1)
    assert scipy.stats.kstest(brightness, "uniform", (0.745, 0.5)).statistic < 0.04
    assert np.abs(np.corrcoef(factors) - np.eye(3)).max() < 0.1


def test_jitter_is_pils_in_all_orders_alike():
    image = pil.photo(12, 10)
    qualities = ("brightness", "contrast", "color")
    out = over_keys(lambda key, image: jitter(key, image, strength=0.9), image, 300).astype(int)
    keys = jax.random.split(jax.random.key(0, impl="threefry2x32"), 300)
    factors = jax.vmap(
        lambda key: jax.random.uniform(jax.random.split(key)[1], (3,), minval=0.1, maxval=1.9)
    )(keys)
    orders = np.zeros(6)
    for result, chain in zip(out, np.asarray(factors), strict=True):
        distances = []
        for order in itertools.permutations(qualities):
            changed = Image.fromarray(image)
            for name, factor in zip(order, chain, strict=True):
                changed = pil.ENHANCEMENTS[name](changed).enhance(float(factor))
            distances.append(np.abs(np.asarray(changed) - result).mean())
        assert min(distances) < 1
        orders[np.argmin(distances)] += 1
    assert scipy.stats.chisquare(orders).pvalue > 1e-3


@pytest.mark.parametrize("deviation", [0.1, 0.5])
def test_lighting_adds_one_colour_of_the_covariance_of_imagenets(deviation):
    """As in AlexNet, p_i has the standard deviation `deviation` times the axis's own."""
    image = pil.photo(5, 4)
    shifts = over_keys(lambda key, image: lighting(key, image, deviation=deviation), image) - image
    np.testing.assert_allclose(shifts, shifts[:, :1, :1] + 0 * shifts, atol=1e-4)
    shifts = shifts[:, 0, 0] / 255
    covariance = deviation**2 * COLOR_AXES @ COLOR_AXES.T
    scale = np.sqrt(np.diag(covariance))
    assert np.abs(shifts.mean(0) / scale).max() < 4 / np.sqrt(COUNT)
    # The error of a covariance is at most sqrt(2 / COUNT) of the product of the deviations.
    errors = (np.cov(shifts.T) - covariance) / np.outer(scale, scale)
    assert np.abs(errors).max() < 4 * np.sqrt(2 / COUNT)
    along = shifts @ np.linalg.inv(COLOR_AXES).T / deviation  # should be standard normal
    for axis in along.T:
        assert scipy.stats.kstest(axis, "norm").pvalue > 1e-3


def test_the_colour_axes_are_orthogonal_and_mostly_grey():
    lengths = np.linalg.norm(COLOR_AXES, axis=0)
    np.testing.assert_allclose(lengths, [0.2175, 0.0188, 0.0045], rtol=1e-3)
    directions = COLOR_AXES / lengths
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-3)
    assert np.ptp(directions[:, 0]) < 0.02
