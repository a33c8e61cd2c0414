import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggnets_jax.detection.images import padded, resize, resized
from tests.detection.scenes import RECORDS, few

SIDES = st.integers(32, 3000)


@given(SIDES, SIDES)
@few
def test_resized_images_fit_the_bounds_and_touch_one(height, width):
    for conventions in RECORDS:
        size, factor = resized((height, width), conventions)
        assert max(size) <= 1333
        assert min(size) <= 800
        assert max(size) >= 1332 or min(size) >= 799
        np.testing.assert_allclose(size, [height * factor, width * factor], atol=1)
        whole = padded(size)
        assert all(side % 32 == 0 for side in whole)
        assert all(0 <= p - s < 32 for p, s in zip(whole, size, strict=True))


def test_resizing_keeps_constants_and_sizes():
    image = np.random.default_rng(0).uniform(size=(5, 7, 3))
    np.testing.assert_allclose(resize(image, (5, 7)), image)
    assert resize(np.ones((5, 7, 3)), (9, 4)) == pytest.approx(np.ones((9, 4, 3)))
    assert resize(np.ones((5, 7, 3), np.float32), (9, 4)).dtype == np.float32
