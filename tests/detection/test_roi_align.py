import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from aggnets_jax.detection.conventions import CENTER, LEGACY, TORCHVISION
from aggnets_jax.detection.roi_align import level_of, pool, roi_align
from aggnets_jax.errors import UserError
from tests.detection.scenes import RECORDS, SEEDS, boxes, few


def bilinear(features, y, x):
    """Return a sample of a map [height, width], as the compiled kernels compute it."""
    height, width = features.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = np.clip([y, x], 0, [height - 1, width - 1])
    low, left = int(y), int(x)
    high, right = min(low + 1, height - 1), min(left + 1, width - 1)
    top = features[low, left] * (1 - x + left) + features[low, right] * (x - left)
    bottom = features[high, left] * (1 - x + left) + features[high, right] * (x - left)
    return top * (1 - y + low) + bottom * (y - low)


def by_loops(features, roi, size, scale, conventions):
    """Return the bins of a RoI with 2x2 samples each."""
    x1, y1, x2, y2 = roi
    starts, lengths = [], []
    for first, last in ((y1, y2), (x1, x2)):
        starts.append(first * scale - conventions.roi_shift)
        length = (last + conventions.extent - first) * scale
        lengths.append(max(length, 1.0) if conventions.roi_least else length)
    at = [(i + f) / size for i in range(size) for f in (0.25, 0.75)]
    grid = [
        [bilinear(features, starts[0] + v * lengths[0], starts[1] + u * lengths[1]) for u in at]
        for v in at
    ]
    return np.reshape(grid, (size, 2, size, 2)).mean(axis=(1, 3))


@given(SEEDS)
@few
def test_both_methods_are_the_loops(seed):
    random = np.random.default_rng(seed)
    features = random.standard_normal((15, 20, 1))
    rois = boxes(seed, 5) + random.uniform(-9, 9, (5, 1))
    with jax.enable_x64(True):
        for conventions in RECORDS:
            wanted = [by_loops(features[..., 0], roi, 3, 0.25, conventions) for roi in rois]
            for method in ("gather", "matrices"):
                levels, given = [jnp.asarray(features)], jnp.asarray(rois)
                found = pool(levels, [4], given, 3, conventions, method=method)
                np.testing.assert_allclose(found[..., 0], wanted, atol=1e-9)


def test_bins_within_a_plane_have_the_value_of_their_centre():
    y, x = np.mgrid[:20, :30]
    features = jnp.asarray(3 * y + x, jnp.float32)[..., None]
    pooled = roi_align(features, jnp.array([[4.0, 4, 16, 10]]), 2, 1.0, CENTER, ratio=2)
    # A pixel's centre is at half its side, where its value is.
    wanted = [[3 * (cy - 0.5) + cx - 0.5 for cx in (7, 13)] for cy in (5.5, 8.5)]
    np.testing.assert_allclose(pooled[0, :, :, 0], wanted, rtol=1e-5)


def test_both_methods_have_one_gradient():
    random = np.random.default_rng(0)
    levels = [jnp.asarray(random.standard_normal((n, n + 4, 2))) for n in (16, 8)]
    rois = jnp.asarray(boxes(3, 6) * [1, 1, 3, 3])
    weight = jnp.asarray(random.standard_normal((6, 2, 2, 2)))
    with jax.enable_x64(True):

        def loss(levels, method):
            pooled = pool(levels, [4, 8], rois, 2, LEGACY, finest=40, method=method)
            return (pooled * weight).sum()

        gradients = [jax.grad(loss)(levels, method) for method in ("gather", "matrices")]
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
        assert np.abs(a).max() > 0


def test_levels_double_and_their_limits_belong_to_the_upper():
    sides = np.array([10, 111.9, 112, 223.9, 224, 448, 5000])
    for conventions in RECORDS:
        rois = np.stack([0 * sides, 0 * sides, sides, sides], axis=1)
        rois[:, 2:] -= conventions.extent
        with jax.enable_x64(True):
            levels = level_of(jnp.asarray(rois), 4, conventions)
        assert levels.tolist() == [0, 0, 1, 1, 2, 3, 3]


def test_an_empty_roi_is_finite():
    features, roi = jnp.ones((8, 8, 1)), jnp.array([[9.0, 9, 9, 9]])
    for conventions in (LEGACY, CENTER, TORCHVISION):
        for ratio in (0, 2):
            assert jnp.isfinite(roi_align(features, roi, 2, 0.25, conventions, ratio=ratio)).all()


def test_an_unknown_method_is_named():
    with pytest.raises(UserError, match="'gathers'; nearest: gather"):
        pool([jnp.ones((4, 4, 1))], [4], jnp.ones((1, 4)), 2, CENTER, method="gathers")
