"""Mixup and CutMix: pairs of images of a batch are mixed, and so are their targets."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import ml_collections

from aggnets_jax.arguments import check_number
from aggnets_jax.data.augment.transforms import Stream, example_key, rectangle
from aggnets_jax.errors import unknown

Mix = Callable[..., tuple[jax.Array, jax.Array]]

RATIO_PER = ("batch", "sample")
# The ratios of Beta(1000, 1000) are 1/2 up to a few percent.
_LARGEST_ALPHA = 1000


def make_mix(data_config: ml_collections.ConfigDict) -> Mix | None:
    """Return `mix(images, targets, batch, seed) -> (images, targets)`, or None without mixing.

    Each example keeps a share of its own image and target and takes the rest from a partner; the
    partners are a random permutation of the batch. The share is drawn from Beta(alpha, alpha).
    Mixup (Zhang et al., arXiv 1710.09412) averages the pixels with it. CutMix (Yun et al., arXiv
    1905.04899) pastes a rectangle from the partner, whose relative area is 1 - share before it is
    clipped at the image's edges; the targets are mixed by the clipped area. If both are set, each
    mixes a whole batch with probability 1/2. The draws for a batch depend on (seed, epoch, index)
    of its first example; with a ratio per sample, each sample's ratio and rectangle depend on its
    own.

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

    def mix(
        images: jax.Array, targets: jax.Array, batch: Mapping[str, jax.Array], seed: int | jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        keys = jax.vmap(example_key, in_axes=(None, 0, 0))(seed, batch["epoch"], batch["index"])
        partner_key, choice_key = jax.random.split(jax.random.fold_in(keys[0], Stream.MIX_BATCH))
        partner = jax.random.permutation(partner_key, len(images))
        cuts = jax.random.bernoulli(choice_key) if mixup and cutmix else jnp.asarray(cutmix > 0)
        ratio_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(
            keys if per_sample else keys[:1], Stream.MIX_RATIO
        )
        weight = jax.vmap(lambda key: own_weight(key, cuts, images.shape[1:3]))(ratio_keys)
        share = weight.mean((1, 2))
        return (
            weight * images + (1 - weight) * images[partner],
            share * targets + (1 - share) * targets[partner],
        )

    return mix


def _outside_box(key: jax.Array, ratio: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Return 0 in a random box of relative area 1 - ratio and 1 outside, float32 [H, W, 1]."""
    extent = (jnp.array(size) * jnp.sqrt(1 - ratio)).astype(jnp.int32)
    top, left = jax.random.randint(key, (2,), 0, jnp.array(size)) - extent // 2
    return 1 - rectangle(top, left, *extent, size).astype(jnp.float32)
