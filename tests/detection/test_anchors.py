import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggnets_jax.detection.anchors import base_anchors, level_anchors, map_sizes
from aggnets_jax.detection.conventions import CENTER, LEGACY, TORCHVISION
from tests.detection import definition
from tests.detection.scenes import RECORDS, few

STRIDES = (4, 8, 16, 32, 64)


@pytest.mark.slow
@given(st.integers(1, 4), st.integers(1, 4))
@few
def test_each_cell_has_three_anchors_a_stride_apart(rows, columns):
    padded = (32 * rows, 32 * columns)
    for conventions in RECORDS:
        levels = level_anchors(padded, STRIDES, conventions)
        sizes = map_sizes(padded, STRIDES)
        assert [len(level) for level in levels] == [3 * h * w for h, w in sizes]
        for level, (h, w), stride in zip(levels[:4], sizes, STRIDES, strict=False):
            grid = np.asarray(level).reshape(h, w, 3, 4)
            np.testing.assert_allclose(np.diff(grid[..., 0], axis=1), stride, rtol=1e-5)
            np.testing.assert_allclose(np.diff(grid[..., 1], axis=0), stride, rtol=1e-5)


@pytest.mark.parametrize("padded", [(64, 96), (100, 140), (160, 32)])
def test_anchors_are_those_of_the_loops(padded):
    for conventions in RECORDS:
        levels = level_anchors(padded, STRIDES, conventions, scale=6, ratios=(0.5, 2.0))
        wanted = definition.anchors(padded, STRIDES, conventions.name, 6, (0.5, 2.0))
        for level, each in zip(levels, wanted, strict=True):
            np.testing.assert_allclose(level, each, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("stride", STRIDES)
def test_anchors_have_one_area_and_the_given_ratios(stride):
    x1, y1, x2, y2 = base_anchors(stride, CENTER).T
    np.testing.assert_allclose((x2 - x1) * (y2 - y1), (8 * stride) ** 2)
    np.testing.assert_allclose((y2 - y1) / (x2 - x1), [0.5, 1, 2])
    for conventions in (LEGACY, TORCHVISION):
        rounded = base_anchors(stride, conventions)
        assert (rounded == np.round(rounded)).all()


def test_torchvisions_stride_is_that_of_the_map():
    # 800 rows have a last map of 13 rows.
    last = level_anchors((800, 1088), STRIDES, TORCHVISION)[-1].reshape(13, 17, 3, 4)
    assert last[1, 0, 0, 1] - last[0, 0, 0, 1] == 61
    last = level_anchors((800, 1088), STRIDES, CENTER)[-1].reshape(13, 17, 3, 4)
    assert last[1, 0, 0, 1] - last[0, 0, 0, 1] == 64


def test_anchors_have_the_asked_dtype():
    levels = level_anchors((32, 32), STRIDES, LEGACY, dtype=jnp.float32)
    assert {level.dtype for level in levels} == {jnp.dtype(jnp.float32)}
