"""What a stage hands to its layers and to its reader: features, alone or with more beside them.

Features are arrays [..., channels]. They may carry statistics, so that layers which normalise the
same features share them, or a mask, which acts behind normalisation and activation. Both are
pytrees, and are concatenated leaf by leaf as arrays are.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct


class Masked(struct.PyTreeNode):
    """Features with a mask, to be multiplied behind what normalises and activates them.

    The mask must act after the normalisation, because BN(0) is not 0: only then does a link of
    weight 0 have no effect at all.
    The features are [..., channels], or a pytree of such arrays, each with a mask [channels].
    """

    features: Any
    mask: Any

    def applied(self) -> Any:
        """Return features * mask, for a reader that does not normalise them."""
        return jax.tree.map(jnp.multiply, without_statistics(self.features), self.mask)

    def scaled(self, weight: jax.Array) -> "Masked":
        """Return the same behind one more link of the weight []."""
        return self.replace(mask=jax.tree.map(lambda m: m * weight.astype(m.dtype), self.mask))


class WithStatistics(struct.PyTreeNode):
    """Features with the statistics by which batch normalisation normalises them in training.

    All layers normalise a feature by the same mean and variance; they are computed once, where the
    feature is: the mean and the biased variance [channels], in at least float32.
    """

    features: Any
    mean: jax.Array
    var: jax.Array


def with_statistics(x: jax.Array) -> WithStatistics:
    """Compute the statistics of features [..., channels]."""
    return WithStatistics(x, *batch_statistics(x))


def without_statistics(x: Any) -> Any:
    """Return the features alone, if x has statistics, else x."""
    return x.features if isinstance(x, WithStatistics) else x


# A user context is part of jit's cache key: functions are traced again when its value changes.
_mapped = jax.make_user_context(None)


def statistics_over(
    axis_names: str | Sequence[str], groups: Sequence[Sequence[int]] | None = None
) -> AbstractContextManager[None]:
    """Take the statistics of functions traced in this context over the parts of mapped axes.

    With `groups`, lists of the numbers of parts, each part takes them over its own group.
    """
    return _mapped((axis_names, groups and tuple(map(tuple, groups))))


def batch_statistics(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return mean and biased variance [channels] of x [..., channels], in at least float32.

    The variance is max(0, E[x^2] - E[x]^2), as in `nn.BatchNorm`, so that x is read once. Within
    `statistics_over`, both are over all parts of the mapped axes.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    axes = tuple(range(x.ndim - 1))
    squares = jax.lax.square(x)
    mean, mean_of_squares = x.mean(axes), squares.mean(axes)
    if _mapped.value is not None:
        axes, groups = _mapped.value
        mean, mean_of_squares = jax.lax.pmean(
            (mean, mean_of_squares), axes, axis_index_groups=groups
        )
    return mean, jnp.maximum(0.0, mean_of_squares - jax.lax.square(mean))
