"""Features that a stage passes to its layers and to its reader, with statistics or a mask.

Features are arrays [..., channels]. They may carry statistics, which layers that normalise the same
features share, or a mask, which acts after normalisation and activation. Both kinds are pytrees,
and are concatenated leaf by leaf.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct


class Masked(struct.PyTreeNode):
    """Features with a mask that multiplies them after normalisation and activation.

    A mask before the normalisation would not cut a link, because BN(0) is not 0. The features are
    [..., channels], or a pytree of such arrays, each with a mask [channels].
    """

    features: Any
    mask: Any

    def applied(self) -> Any:
        """Return features * mask, for a reader that does not normalise them."""
        return jax.tree.map(jnp.multiply, without_statistics(self.features), self.mask)

    def scaled(self, weight: jax.Array) -> "Masked":
        """Return the features after one more link, with the weight []."""
        return self.replace(mask=jax.tree.map(lambda m: m * weight.astype(m.dtype), self.mask))


class WithStatistics(struct.PyTreeNode):
    """Features with the statistics for their batch normalisation in training.

    All layers normalise features by the same mean and variance, so these are computed once, where
    the features are computed.

    Attributes:
      features: [..., channels].
      mean: [channels], in at least float32.
      var: biased variance [channels], in at least float32.
    """

    features: Any
    mean: jax.Array
    var: jax.Array


def with_statistics(x: jax.Array) -> WithStatistics:
    """Compute the statistics of features [..., channels]."""
    return WithStatistics(x, *batch_statistics(x))


def without_statistics(x: Any) -> Any:
    """Return the features without statistics; other x is returned unchanged."""
    return x.features if isinstance(x, WithStatistics) else x


# A user context is part of jit's cache key: functions are traced again when its value changes.
_mapped = jax.make_user_context(None)
_over_devices = jax.make_user_context(False)


def shift_over_devices() -> AbstractContextManager[None]:
    """Use the shift of `batch_statistics` also for batches that are divided over devices.

    The context holds for functions that are traced in it.
    """
    return _over_devices(True)


def statistics_over(
    axis_names: str | Sequence[str], groups: Sequence[Sequence[int]] | None = None
) -> AbstractContextManager[None]:
    """Take batch statistics over all parts of mapped axes, in functions traced in this context.

    With `groups`, each a list of the numbers of parts, a part takes them over its own group.
    """
    return _mapped((axis_names, groups and tuple(map(tuple, groups))))


def batch_statistics(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return mean and biased variance [channels] of x [..., channels], in at least float32.

    Within `statistics_over`, both are over all parts of the mapped axes. `shifted_moments` computes
    them; the shift is the batch's mean at the central position. If the batch is divided over
    devices, the shift would cost one more sum over the devices, for which all of them wait. There
    it is 0, unless `shift_over_devices` is entered.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    axes = tuple(range(x.ndim - 1))

    def mean(values: Any) -> Any:
        values = jax.tree.map(lambda v: v.mean(axes), values)
        if _mapped.value is None:
            return values
        names, groups = _mapped.value
        return jax.lax.pmean(values, names, axis_index_groups=groups)

    if _is_divided() and not _over_devices.value:
        return shifted_moments(x, jnp.zeros(x.shape[-1:], x.dtype), mean)
    # One value of each image, so that reading it costs nothing; slices may be empty.
    center = x[:, *(slice(n // 2, n // 2 + 1) for n in x.shape[1:-1])]
    return shifted_moments(x, mean(center), mean)


def parts_of_batch() -> int:
    """Return the number of parts of the mapped axes that share statistics; 1 without axes."""
    if _mapped.value is None:
        return 1
    names, groups = _mapped.value
    return len(groups[0]) if groups else jax.lax.psum(1, names)


def _is_divided() -> bool:
    mesh = jax.sharding.get_abstract_mesh()
    by_compiler = not mesh.empty and mesh.size > 1 and mesh.are_all_axes_auto
    return by_compiler or parts_of_batch() > 1


def shifted_moments(
    x: jax.Array, shift: jax.Array, mean: Callable[[Any], Any]
) -> tuple[jax.Array, jax.Array]:
    """Return mean E[x] and variance E[(x - shift)^2] - (E[x] - shift)^2, both [channels].

    Neither depends on the shift, but their rounding does: without a shift, float32 has no digits
    left where the mean is a thousand deviations from 0. The mean of some of the values is a good
    shift, and x is read once. Chan, Golub and LeVeque, "Algorithms for Computing the Sample
    Variance", The American Statistician 37(3), 1983, eq. 1.7.

    Args:
      x: [..., channels].
      shift: [channels].
      mean: function from a pair of arrays [..., channels] to their means [channels].
    """
    shift = jax.lax.stop_gradient(shift)
    deviations = x - shift
    offset, square = mean((deviations, jax.lax.square(deviations)))
    return shift + offset, jnp.maximum(0.0, square - jax.lax.square(offset))
