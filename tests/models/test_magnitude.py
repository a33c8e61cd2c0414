"""Pruning by magnitude keeps the largest weights, and as many as asked for."""

import jax
import numpy as np
import pytest

from aggnets_jax.errors import UserError
from aggnets_jax.models.magnitude import masks, prune


def params():
    random = np.random.default_rng(0)
    return {
        "conv": {"kernel": random.standard_normal((3, 3, 8, 16)).astype(np.float32)},
        "norm": {"scale": np.full(16, 1e-3, np.float32), "bias": np.zeros(16, np.float32)},
    }


def test_the_largest_weights_of_each_kernel_remain():
    before = params()
    after = prune(before, 32 + 288)
    kernel, kept = before["conv"]["kernel"], np.asarray(after["conv"]["kernel"])
    assert np.count_nonzero(kept) == 288
    assert np.abs(kernel[kept != 0]).min() >= np.abs(kernel[kept == 0]).max()
    assert np.all(kept[kept != 0] == kernel[kept != 0])
    np.testing.assert_array_equal(after["norm"]["scale"], before["norm"]["scale"])


def test_as_many_remain_as_asked_for():
    for kept in (32, 100, 32 + 1152):
        assert sum(int(mask.sum()) for mask in jax.tree.leaves(masks(params(), kept))) == kept


@pytest.mark.parametrize("kept", [31, 32 + 1153])
def test_more_than_all_or_fewer_than_the_norms_are_refused(kept):
    with pytest.raises(UserError, match="kept must be"):
        masks(params(), kept)
