"""Mixup and CutMix: pairs of images of a batch are mixed, and so are their targets."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from aggnets_jax.arguments import check_number
from aggnets_jax.data.augment.transforms import Stream, example_key, rectangle
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.runtime.mesh import map_blocks

Mix = Callable[..., tuple[jax.Array, jax.Array]]

RATIO_PER = ("batch", "sample")
# The ratios of Beta(1000, 1000) are 1/2 up to a few percent.
_LARGEST_ALPHA = 1000
# Most examples of a block, within which partners are drawn.
_BLOCK = 16


def make_mix(data_config: ml_collections.ConfigDict) -> Mix | None:
    """Return `mix(images, targets, batch, seed) -> (images, targets)`, or None without mixing.

    Each example keeps a share of its own image and target and takes the rest from a partner. The
    partners are a random permutation of each block of consecutive examples, whose number is the
    largest divisor of B up to 16, so that few images, or none, go from device to device, and the
    result does not depend on the number of devices. The share is drawn from Beta(alpha, alpha).
    A batch whose only such divisor is 1 raises `UserError`.
    Mixup (Zhang et al., arXiv 1710.09412) averages the pixels with it. CutMix (Yun et al., arXiv
    1905.04899) pastes a rectangle from the partner, whose relative area is 1 - share before it is
    clipped at the image's edges; the targets are mixed by the clipped area. If both are set, each
    mixes a whole batch with probability 1/2. The draws for a block or a batch depend on (seed,
    epoch, index) of its first example; with a ratio per sample, each sample's ratio and rectangle
    depend on its own.

    Returns:
      A pure, traceable function of images float32 [B, H, W, C], targets float32 [B, classes], the
      batch with "epoch" and "index" int32 [B], and the seed, which may be traced.

    Raises:
      UserError: an alpha is out of range or `mix_ratio_per` unknown.
    """
    mixup, cutmix = data_config.mixup, data_config.cutmix
    for field, alpha in (("mixup", mixup), ("cutmix", cutmix)):
        check_number(field, alpha, 0, _LARGEST_ALPHA)
    if data_config.mix_ratio_per not in RATIO_PER:
        raise unknown("value of mix_ratio_per", str(data_config.mix_ratio_per), RATIO_PER)
    if not (mixup or cutmix):
        return None
    per_sample = data_config.mix_ratio_per == "sample"

    def own_weight(key: jax.Array, cuts: jax.Array, size: tuple[int, int]) -> jax.Array:
        """Return the share of its own pixels that an example keeps: float32 [H, W, 1]."""
        ratio_key, box_key = jax.random.split(key)
        alpha = jnp.where(cuts, cutmix, mixup)
        ratio = jax.random.beta(ratio_key, alpha, alpha)
        return jnp.where(cuts, _outside_box(box_key, ratio, size), ratio)

    def mix_blocks(block: int, batch: Any, fixed: Any) -> tuple[jax.Array, jax.Array]:
        """Mix whole blocks; `fixed` has the seed, and epoch and index of the batch's first."""
        images, targets, epoch, index = batch
        seed, *first = fixed
        keys = jax.vmap(example_key, in_axes=(None, 0, 0))(seed, epoch, index)
        first_key = example_key(seed, *first)
        choice_key = _mix_keys(first_key)[1]
        cuts = jax.random.bernoulli(choice_key) if mixup and cutmix else jnp.asarray(cutmix > 0)
        ratio_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(
            keys if per_sample else first_key[None], Stream.MIX_RATIO
        )
        weight = jax.vmap(lambda key: own_weight(key, cuts, images.shape[1:3]))(ratio_keys)
        share = weight.mean((1, 2))
        partner = _partners(keys, block)
        return (
            weight * images + (1 - weight) * images[partner],
            share * targets + (1 - share) * targets[partner],
        )

    def mix(
        images: jax.Array, targets: jax.Array, batch: Mapping[str, jax.Array], seed: int | jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        epoch, index = batch["epoch"], batch["index"]
        block = max(n for n in range(1, _BLOCK + 1) if len(images) % n == 0)
        if block == 1:
            raise UserError(
                f"mixup and cutmix need a batch_size with a divisor from 2 to {_BLOCK}, not"
                f" {len(images)}"
            )
        mapped = map_blocks(functools.partial(mix_blocks, block), block)
        return mapped((images, targets, epoch, index), (seed, epoch[0], index[0]))

    return mix


def _mix_keys(key: jax.Array) -> jax.Array:
    """Return the keys of the partners and of the choice between mixup and CutMix, [2]."""
    return jax.random.split(jax.random.fold_in(key, Stream.MIX_BATCH))


def _partners(keys: jax.Array, block: int) -> jax.Array:
    """Return the partner of each example, of the same block; int32 [B]."""
    partner_keys = jax.vmap(_mix_keys)(keys[::block])[:, 0]
    partners = jax.vmap(lambda key: jax.random.permutation(key, block))(partner_keys)
    return (partners + jnp.arange(0, len(keys), block)[:, None]).ravel()


def _outside_box(key: jax.Array, ratio: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Return 0 in a random box of relative area 1 - ratio and 1 outside, float32 [H, W, 1]."""
    extent = (jnp.array(size) * jnp.sqrt(1 - ratio)).astype(jnp.int32)
    top, left = jax.random.randint(key, (2,), 0, jnp.array(size)) - extent // 2
    return 1 - rectangle(top, left, *extent, size).astype(jnp.float32)  # type: ignore[call-arg]
