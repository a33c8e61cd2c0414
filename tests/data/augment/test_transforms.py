"""Cutout and random erasing: where, how large, how often, and with what."""

import numpy as np
import pytest
import scipy.stats

from aggnets_jax.data.augment.transforms import cutout, erase
from tests.data.augment.draws import COUNT, over_keys


def extents(marked):
    """Return first and last row and column of the one rectangle in each of bool [N, H, W]."""
    found = []
    for lines in (marked.any(2), marked.any(1)):
        first = lines.argmax(1)
        last = lines.shape[1] - 1 - lines[:, ::-1].argmax(1)
        found += [first, last]
    top, bottom, left, right = found
    assert np.array_equal(marked.sum((1, 2)), (bottom - top + 1) * (right - left + 1))
    return found


@pytest.mark.parametrize("side", [1, 4, 5])
def test_cutout_blanks_a_square_around_any_pixel(side):
    shape = (8, 10)
    image = np.full((*shape, 3), -1.5, np.float32)
    out = over_keys(lambda key, image: cutout(key, image, side=side), image)
    blank = (out == 0).all(-1)
    assert (out[~blank] == -1.5).all()
    squares = {}
    for y, x in np.ndindex(shape):
        mask = np.zeros(shape, bool)
        top, left = y - side // 2, x - side // 2
        mask[max(top, 0) : top + side, max(left, 0) : left + side] = True
        squares[mask.tobytes()] = len(squares)
    assert len(squares) == 80
    counts = np.zeros(80)
    for mask in blank:
        counts[squares[mask.tobytes()]] += 1  # KeyError: no such square
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


@pytest.fixture(scope="module")
def erased():
    """(out, marked): a picture of -1, so that noise cannot look like it, erased always."""
    image = np.full((48, 64, 3), -1.0, np.float32)
    out = over_keys(lambda key, image: erase(key, image, probability=1.0), image, 3000)
    return out, (out != -1).all(-1)


@pytest.mark.slow
def test_erased_areas_and_aspects_are_uniform(erased):
    out, marked = erased
    assert np.array_equal(marked, (out != -1).any(-1))
    top, bottom, left, right = extents(marked)
    height, width = bottom - top + 1, right - left + 1
    # Sizes are whole pixels, and the few that do not fit are drawn again; so compare with the same
    # procedure done in numpy.
    rng = np.random.default_rng(1)
    area = rng.uniform(0.02, 0.33, 20_000) * 48 * 64
    aspect = rng.uniform(0.3, 1 / 0.3, 20_000)
    heights, widths = np.round(np.sqrt(area * aspect)), np.round(np.sqrt(area / aspect))
    fits = (heights < 48) & (widths < 64)
    heights, widths = heights[fits], widths[fits]
    for ours, wanted in ((height, heights), (width, widths), (height * width, heights * widths)):
        assert scipy.stats.ks_2samp(ours, wanted).pvalue > 1e-3
    assert abs((height * width).mean() / (48 * 64) - 0.175) < 0.02
    assert scipy.stats.kstest(height * width / (48 * 64), "uniform", (0.02, 0.31)).statistic < 0.1


def test_erased_rectangles_lie_anywhere(erased):
    top, bottom, left, right = extents(erased[1])
    rng = np.random.default_rng(2)
    for first, last, length in ((top, bottom, 48), (left, right, 64)):
        room = length - (last - first + 1)
        # Spread over the whole pixel that a place stands for, it is uniform.
        place = (first + rng.uniform(size=len(first))) / (room + 1)
        assert scipy.stats.kstest(place, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(top, left)[0, 1]) < 0.08


def test_erased_pixels_are_uniform_noise(erased):
    out, marked = erased
    noise = out[marked]
    assert scipy.stats.chisquare(np.bincount(noise[:100_000].astype(int).ravel())).pvalue > 1e-3
    assert np.abs(np.corrcoef(noise[:100_000].T) - np.eye(3)).max() < 0.02
    assert np.array_equal(np.unique(noise), np.arange(256))


@pytest.mark.parametrize("probability", [0.25, 1.0])
def test_images_are_erased_with_the_probability(probability):
    image = np.full((16, 16, 1), 3, np.uint8)
    out = over_keys(lambda key, image: erase(key, image, probability=probability), image)
    assert out.dtype == np.uint8
    count = (out != 3).any((1, 2, 3)).sum()
    bound = 4 * np.sqrt(COUNT * probability * (1 - probability))
    assert abs(count - probability * COUNT) <= bound
