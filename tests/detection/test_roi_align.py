import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from aggnets_jax.detection.conventions import CENTER, LEGACY, TORCHVISION
from aggnets_jax.detection.roi_align import level_of, pool, roi_align
from aggnets_jax.errors import UserError
from tests.detection import definition
from tests.detection.scenes import RECORDS, SEEDS, boxes, compiled, few
from tests.marks import mostly_slow


@mostly_slow("ratio", [0, 1, 2, 3], quick=(0, 2))
@given(SEEDS)
@few
def test_bins_are_those_of_the_loops(ratio, seed):
    random = np.random.default_rng(seed)
    features = random.standard_normal((9, 12))
    # Some reach over the border; the last is smaller than a cell, and one is the whole map.
    rois = boxes(seed, 5, size=(36, 48)) + random.uniform(-6, 6, (5, 1))
    rois[3], rois[4, 2:] = [0, 0, 48, 36], rois[4, :2] + 0.5
    with jax.enable_x64(True):
        for conventions in RECORDS:
            name = conventions.name
            wanted = [definition.roi_align(features, roi, 3, 0.25, name, ratio) for roi in rois]
            levels, given = jnp.asarray(features)[..., None], jnp.asarray(rois)
            fixed = {"size": 3, "conventions": conventions}
            pooled = compiled(roi_align, scale=0.25, ratio=ratio, **fixed)
            found = pooled(levels, given)
            np.testing.assert_allclose(found[..., 0], wanted, atol=1e-9)
            if ratio == 2:
                for method in ("gather", "matrices"):
                    found = compiled(pool, strides=(4,), method=method, **fixed)(
                        [levels], rois=given
                    )
                    np.testing.assert_allclose(found[..., 0], wanted, atol=1e-9)


@given(SEEDS)
@few
def test_each_roi_reads_its_own_level(seed):
    random = np.random.default_rng(seed)
    maps = [random.standard_normal((side, side + 4)) for side in (32, 16, 8)]
    rois = boxes(seed, 8, size=(128, 144)) * [0.5, 0.5, 1.5, 1.5]
    with jax.enable_x64(True):
        for conventions in RECORDS:
            name = conventions.name
            at = [min(definition.level(2 * roi, name), 2) for roi in rois]  # finest is 28, not 56
            if conventions.extent:
                at = np.asarray(level_of(jnp.asarray(rois), 3, conventions, finest=28))
            wanted = [
                definition.roi_align(maps[i], roi, 2, 1 / (4 << i), name, 2)
                for i, roi in zip(at, rois, strict=True)
            ]
            levels = [jnp.asarray(each)[..., None] for each in maps]
            for method in ("gather", "matrices"):
                fixed = {"size": 2, "conventions": conventions, "finest": 28, "method": method}
                found = compiled(pool, strides=(4, 8, 16), **fixed)(levels, rois=jnp.asarray(rois))
                np.testing.assert_allclose(found[..., 0], wanted, atol=1e-9)


def test_bins_within_a_plane_have_the_value_of_their_centre():
    y, x = np.mgrid[:20, :30]
    features = jnp.asarray(3 * y + x, jnp.float32)[..., None]
    pooled = roi_align(features, jnp.array([[4.0, 4, 16, 10]]), 2, 1.0, CENTER, ratio=2)
    # A pixel's centre is at half its side, where its value is.
    wanted = [[3 * (cy - 0.5) + cx - 0.5 for cx in (7, 13)] for cy in (5.5, 8.5)]
    np.testing.assert_allclose(pooled[0, :, :, 0], wanted, rtol=1e-5)


@pytest.mark.slow
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
        for x64 in (False, True):
            with jax.enable_x64(x64):
                levels = level_of(jnp.asarray(rois), 4, conventions)
            assert levels.tolist() == [0, 0, 1, 1, 2, 3, 3]


@given(SEEDS)
@few
def test_levels_are_those_of_the_definition(seed):
    rois = boxes(seed, 20, size=(800, 1000)) * [0.5, 0.5, 2, 2]
    with jax.enable_x64(True):
        for conventions in RECORDS:
            wanted = [definition.level(roi, conventions.name) for roi in rois]
            assert level_of(jnp.asarray(rois), 4, conventions).tolist() == wanted


def test_an_empty_roi_is_finite():
    features, roi = jnp.ones((8, 8, 1)), jnp.array([[9.0, 9, 9, 9]])
    for conventions in (LEGACY, CENTER, TORCHVISION):
        for ratio in (0, 2):
            assert jnp.isfinite(roi_align(features, roi, 2, 0.25, conventions, ratio=ratio)).all()


def test_an_unknown_method_is_named():
    with pytest.raises(UserError, match="'gathers'; nearest: gather"):
        pool([jnp.ones((4, 4, 1))], [4], jnp.ones((1, 4)), 2, CENTER, method="gathers")
