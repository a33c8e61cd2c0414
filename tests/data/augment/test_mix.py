"""Mixup and CutMix: partners, ratios, boxes, and targets that say what is in the image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from aggnets_jax.data import make_mix
from aggnets_jax.errors import UserError
from tests.data.conftest import make_config

BATCH, HEIGHT, WIDTH = 8, 16, 20
SEEDS = 1500


def make_batch(count=BATCH):
    """Images whose pixels, and targets whose classes, say which example they are of."""
    batch = {"epoch": jnp.full(count, 3), "index": jnp.arange(count) * 7 + 5}
    images = jnp.broadcast_to(1.0 + jnp.arange(count)[:, None, None, None], (count, 16, 20, 2))
    return images, jnp.eye(count), batch


@functools.cache
def mixed(**fields):
    """Return images [SEEDS, B, H, W] and targets [SEEDS, B, B] of many seeds at once."""
    mix = make_mix(make_config("made up", None, **fields))
    images, targets, batch = make_batch()
    out = jax.jit(jax.vmap(lambda seed: mix(images, targets, batch, seed)))(jnp.arange(SEEDS))
    images, targets = map(np.asarray, out)
    assert np.array_equal(images[..., 0], images[..., 1])
    return images[..., 0], targets


def partners_and_shares(targets):
    """Return the partner and one's own share, [SEEDS, B]; oneself and 1 if it cannot be seen."""
    own = np.einsum("sbb->sb", targets)
    others = targets * (1 - np.eye(BATCH))
    partner = np.where(others.any(2), others.argmax(2), np.arange(BATCH))
    np.testing.assert_allclose(targets.sum(2), 1, atol=1e-6)
    assert (np.count_nonzero(others, axis=2) <= 1).all()
    return partner, own


@pytest.mark.parametrize("field", ["mixup", "cutmix"])
def test_partners_are_a_uniform_permutation(field):
    partner, _ = partners_and_shares(mixed(**{field: 1.0}, mix_ratio_per="batch")[1])
    if field == "mixup":  # with CutMix an empty box hides the partner
        assert (np.sort(partner) == np.arange(BATCH)).all()
        for row in range(BATCH):
            assert scipy.stats.chisquare(np.bincount(partner[:, row])).pvalue > 1e-3
    for row in partner:
        others = row[row != np.arange(BATCH)]
        assert len(set(others)) == len(others)


@pytest.mark.parametrize("alpha", [0.4, pytest.param(1.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("per", ["batch", "sample"])
def test_mixup_ratios_are_beta_and_the_images_share_them(alpha, per):
    images, targets = mixed(mixup=alpha, mix_ratio_per=per)
    partner, share = partners_and_shares(targets)
    expected = share * (1 + np.arange(BATCH)) + (1 - share) * (1 + partner)
    np.testing.assert_allclose(images, expected[..., None, None] + 0 * images, rtol=1e-5)
    paired = partner != np.arange(BATCH)
    if per == "batch":
        least, most = np.where(paired, share, 2).min(1), np.where(paired, share, -1).max(1)
        ratios = most[paired.any(1)]
        np.testing.assert_allclose(least[paired.any(1)], ratios, atol=1e-5)
    else:
        both = paired[:, 0] & paired[:, 1]
        assert abs(np.corrcoef(share[both, 0], share[both, 1])[0, 1]) < 0.12
        ratios = share[paired]
    assert scipy.stats.kstest(ratios, "beta", (alpha, alpha)).pvalue > 1e-3
    assert ratios.mean() == pytest.approx(0.5, abs=0.04)
    assert ratios.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def pasted_pixels(alpha, count):
    """Return the numbers of pixels that the paper's procedure pastes into images, in numpy."""
    rng = np.random.default_rng(0)
    ratio = rng.beta(alpha, alpha, count)
    area = 1
    for length in (HEIGHT, WIDTH):
        extent = (length * np.sqrt(1 - ratio)).astype(int)
        first = rng.integers(0, length, count) - extent // 2
        area = area * (np.minimum(first + extent, length) - np.maximum(first, 0))
    return area


@pytest.mark.parametrize("per", ["batch", "sample"])
def test_cutmix_pastes_a_rectangle_and_counts_its_pixels(per):
    images, targets = mixed(cutmix=1.0, mix_ratio_per=per)
    partner, share = partners_and_shares(targets)
    own = images == 1 + np.arange(BATCH)[:, None, None]
    assert (own | (images == 1 + partner[..., None, None])).all()
    np.testing.assert_allclose(own.mean((2, 3)), share, atol=1e-6)
    pasted = ~own
    rows, columns = pasted.any(3), pasted.any(2)
    assert np.array_equal(pasted, rows[..., None] & columns[:, :, None])
    for lines in (rows, columns):
        ends = np.diff(np.pad(lines.astype(int), ((0, 0), (0, 0), (1, 1))), axis=2) == 1
        assert (ends.sum(2) <= 1).all()  # lines in one piece
    seen = pasted.any((2, 3))
    if per == "batch":
        masks = [masks[shown] for masks, shown in zip(pasted, seen, strict=True)]
        assert all((mask == mask[:1]).all() for mask in masks)
        pixels = np.array([mask[0].sum() for mask in masks if len(mask)])
    else:
        pixels = pasted.sum((2, 3))[seen]
    wanted = pasted_pixels(1.0, 50_000)
    assert scipy.stats.ks_2samp(pixels, wanted[wanted > 0]).pvalue > 1e-3


def test_with_both_a_batch_is_mixed_in_one_way_half_of_the_time():
    images, targets = mixed(mixup=1.0, cutmix=1.0, mix_ratio_per="sample")
    partner, share = partners_and_shares(targets)
    hidden = (share == 1) | (share == 0) | (partner == np.arange(BATCH))
    blended = (images % 1 > 1e-4).any((2, 3)) | (np.ptp(images, axis=(2, 3)) == 0)
    kinds = np.where(hidden, np.nan, blended)
    seen = kinds[(~hidden).any(1)]
    assert np.array_equal(np.nanmax(seen, 1), np.nanmin(seen, 1))
    assert abs(np.nanmax(seen, 1).mean() - 0.5) < 4 * 0.5 / np.sqrt(len(seen))


@pytest.mark.parametrize("per", ["batch", "sample"])
def test_draws_follow_from_seed_epoch_and_index(per):
    mix = jax.jit(make_mix(make_config("made up", None, mixup=1.0, mix_ratio_per=per)))
    count = 16
    images, targets, batch = make_batch(count)
    order = np.random.default_rng(0).permutation(np.arange(1, count))
    order = np.array([0, *order])  # what is drawn for the batch is its first's
    moved = {name: values[order] for name, values in batch.items()}
    one = np.asarray(mix(images, targets, batch, 4)[1])
    other = np.asarray(mix(images[order], targets[order], moved, 4)[1])
    before, after = np.diag(one)[order], other[np.arange(count), order]
    visible = (before < 1) & (after < 1)
    assert visible.sum() > 10
    assert np.array_equal(before[visible], after[visible])
    assert len(set(before[visible])) == (1 if per == "batch" else visible.sum())
    # Partners are places in the batch, whoever is there.
    assert np.array_equal((one > 0).nonzero()[1], (other[:, order] > 0).nonzero()[1])
    assert not np.array_equal(mix(images, targets, batch, 5)[1], one)
    later = batch | {"epoch": batch["epoch"] + 1}
    assert not np.array_equal(mix(images, targets, later, 4)[1], one)


def test_partners_are_of_the_same_block_of_sixteen():
    mix = jax.jit(make_mix(make_config("made up", None, mixup=1.0, mix_ratio_per="batch")))
    for count, block in ((64, 16), (24, 12), (25, 5), (7, 7)):
        targets = np.stack([mix(*make_batch(count), seed)[1] for seed in range(20)])
        mixed = targets.any(0).reshape(count // block, block, count // block, block)
        apart = np.einsum("aibj->ab", mixed)
        assert np.array_equal(apart > 0, np.eye(count // block, dtype=bool)), count
        own = targets.reshape(20, count // block, block, -1, block)
        blocks = np.stack([own[:, i, :, i] for i in range(count // block)])
        if len(blocks) > 1 and block > 1:  # each with partners of its own
            assert not np.array_equal(blocks[0] > 0, blocks[1] > 0)


def test_a_batch_without_blocks_is_told():
    mix = make_mix(make_config("made up", None, cutmix=1.0))
    with pytest.raises(UserError, match="with a divisor from 2 to 16, not 17"):
        mix(*make_batch(17), 0)


def test_nothing_to_mix():
    assert make_mix(make_config("made up", None)) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mixup": -0.1}, "mixup must be a number from 0 to 1000, got -0.1"),
        ({"cutmix": float("nan")}, "cutmix must be a number from 0 to 1000, got nan"),
        ({"mix_ratio_per": "samples"}, "unknown value of mix_ratio_per 'samples'; nearest: sample"),
    ],
)
def test_wrong_values_are_errors(fields, message):
    with pytest.raises(UserError, match=message):
        make_mix(make_config("made up", None, **fields))
