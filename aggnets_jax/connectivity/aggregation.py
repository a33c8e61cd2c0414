"""Aggregations: how a layer combines the outputs y_i, y_j, ... that it reads.

    concat           [y_i || y_j || ...]                             DenseNet, SparseNet
    sum              y_i + y_j + ...                                 ResNet
    mean             (y_i + y_j + ...) / number of sources
    padded_sum       the sum, narrower outputs padded with zeros     PyramidNet, 1610.02915, Fig. 6
    Mixed            concat, but neighbours overlap and add there    MixNet, 1802.01808
    DualPath         [sum of first channels || concat of the rest]   DPN, 1707.01629
    NormalisedSum    sum_i W[l, i] * N(y_i)                          DSNet, 2010.12496, eq. 12

An aggregation is a function `aggregate(outputs, sources, layer, weights=None)`:

    outputs    the outputs of the stage so far, arrays [..., channels], by index
    sources    the indices of the outputs to combine, in order
    layer      the number of the layer that reads them, part of the names of parameters
    weights    float [sources], one for each link, if links are masked (see `stage.Stage`)

`make_aggregation` makes a new one for each pass through a stage, because sums keep partial sums.
With weights, a sum multiplies its addends at once. A concatenation is returned as `Masked`, because
its channels must be multiplied after the reader's normalisation and activation.
"""

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from aggnets_jax.arguments import choose
from aggnets_jax.connectivity.features import Masked, without_statistics
from aggnets_jax.errors import UserError, unknown

Outputs = Sequence[Any] | Mapping[int, Any]
Indices = Sequence[int]
Weights = jax.Array | None
Aggregation = Callable[..., Any]
"""`(outputs, sources, layer, weights=None) -> aggregate`, see above."""


def concat(outputs: Outputs, sources: Indices, layer: int, weights: Weights = None) -> Any:
    """Return [y_i || y_j || ...] [..., sum of channels]; pytrees are joined leaf by leaf."""
    del layer

    def join(*leaves: jax.Array) -> jax.Array:
        return leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves, axis=-1)

    read = [outputs[source] for source in sources]
    features = jax.tree.map(join, *read)
    if weights is None:
        return features
    masks = [
        jax.tree.map(lambda y, w=w: _mask(w, y), without_statistics(y))
        for w, y in zip(weights, read, strict=True)
    ]
    return Masked(features, jax.tree.map(join, *masks))


class Sum:
    """y_i + y_j + ..., of outputs of one shape, added from the first source to the last.

    If the sources begin like the sources of an earlier layer, the sum continues the earlier sum.
    Under the dense topology this is the running sum of a residual network, with its N additions and
    its rounding.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[int, ...], jax.Array] = {}

    def __call__(
        self, outputs: Outputs, sources: Indices, layer: int, weights: Weights = None
    ) -> jax.Array:
        """Return the sum [..., channels], weighted if links are masked."""
        del layer
        if weights is not None:  # which differ from layer to layer: no partial sum is shared
            outputs = weighted(outputs, sources, weights)
            return functools.reduce(self._add, (outputs[source] for source in sources))
        sources = tuple(sources)
        if sources in self._sums:
            return self._sums[sources]
        done = len(sources) - 1 if sources[:-1] in self._sums else 1
        total = self._sums[sources[:done]] if done > 1 else outputs[sources[0]]
        for end in range(done + 1, len(sources) + 1):
            total = self._sums[sources[:end]] = self._add(total, outputs[sources[end - 1]])
        return total

    def _add(self, total: jax.Array, term: jax.Array) -> jax.Array:
        if term.shape != total.shape:
            raise UserError(
                "aggregation by sum or mean needs outputs of one shape,"
                f" got {total.shape} and {term.shape}"
            )
        return total + term


class PaddedSum(Sum):
    """A sum of outputs of several widths, the narrower padded with zeros (PyramidNet, Fig. 6)."""

    def _add(self, total: jax.Array, term: jax.Array) -> jax.Array:
        width = max(total.shape[-1], term.shape[-1])
        return super()._add(pad_channels(total, width), pad_channels(term, width))


class Mean(Sum):
    """The sum divided by the number of sources."""

    def __call__(
        self, outputs: Outputs, sources: Indices, layer: int, weights: Weights = None
    ) -> jax.Array:
        """Return the mean [..., channels], weighted if links are masked."""
        return super().__call__(outputs, sources, layer, weights) / len(sources)


class Mixed(Sum):
    """A concatenation in which neighbours share `overlap` channels, which are added (MixNet).

    The result has the channels of all outputs minus the overlaps. Without overlap it is a
    concatenation; where all channels overlap it is a sum. Like a sum it continues earlier ones.

    With weights, channels of one output alone are multiplied where they are used, and channels that
    are sums are sums of multiplied addends.
    """

    def __init__(self, overlap: int) -> None:
        super().__init__()
        self.overlap = overlap

    def __call__(
        self, outputs: Outputs, sources: Indices, layer: int, weights: Weights = None
    ) -> jax.Array | Masked:
        """Return [..., channels of all outputs - overlaps]."""
        if weights is None:
            return super().__call__(outputs, sources, layer)
        read = [
            Masked(outputs[s], _mask(w, outputs[s])) for w, s in zip(weights, sources, strict=True)
        ]
        return functools.reduce(self._add_masked, read)

    def _add(self, total: jax.Array, term: jax.Array) -> jax.Array:
        kept = total.shape[-1] - self.overlap
        if kept < 0 or term.shape[-1] < self.overlap:
            raise UserError(
                f"outputs of {total.shape[-1]} and {term.shape[-1]} channels can't overlap by"
                f" {self.overlap}"
            )
        shared = super()._add(total[..., kept:], term[..., : self.overlap])
        return jnp.concatenate([total[..., :kept], shared, term[..., self.overlap :]], axis=-1)

    def _add_masked(self, total: Masked, term: Masked) -> Masked:
        """Multiply the overlapping channels, add, and keep the mask of the others for later."""
        ones = _mask(1, total.features[..., : self.overlap])
        kept = total.mask.shape[-1] - self.overlap
        mask = jnp.concatenate([total.mask[:kept], ones, term.mask[self.overlap :]])
        overlap_of_total = total.features * total.mask.at[:kept].set(1)
        overlap_of_term = term.features * term.mask.at[self.overlap :].set(1)
        return Masked(self._add(overlap_of_total, overlap_of_term), mask)


class DualPath(Sum):
    """The first channels of all outputs added, the rest concatenated (DPN).

    Outputs have `residual` and any number of further channels; the result has `residual` and the
    sum of the further channels.
    """

    def __init__(self, residual: int) -> None:
        super().__init__()
        self.residual = residual

    def __call__(
        self, outputs: Outputs, sources: Indices, layer: int, weights: Weights = None
    ) -> jax.Array | Masked:
        """Return [..., residual + sum of the further channels]."""
        first = {s: outputs[s][..., : self.residual] for s in sources}
        added = super().__call__(first, sources, layer, weights)
        rest = {s: outputs[s][..., self.residual :] for s in sources}
        rest = concat(rest, sources, layer, weights)
        if weights is None:
            return jnp.concatenate([added, rest], axis=-1)
        mask = jnp.concatenate([_mask(1, added), rest.mask])
        return Masked(jnp.concatenate([added, rest.features], axis=-1), mask)


class Affine(NamedTuple):
    """The map x -> factor * x + shift; both broadcast against x. A normalisation is one."""

    factor: jax.Array
    shift: jax.Array


class NormalisedSum:
    """sum_i W[layer, i] * N(y_i), of outputs of one shape (DSNet, eq. 12).

    N(y_i) is computed once for each output and shared by all layers that read it. W is the
    parameter `weights{layer}/weights` [sources, channels] of the stage, initially 1.
    """

    def __init__(
        self, norm: Callable[..., Callable[[jax.Array], Affine]], *, weighted: bool = True
    ) -> None:
        """Take `norm(name=...)`, which makes N, and whether W is learnt rather than 1."""
        self.norm = norm
        self.weighted = weighted
        self._maps: dict[int, Affine] = {}

    def __call__(
        self, outputs: Outputs, sources: Indices, layer: int, weights: Weights = None
    ) -> jax.Array:
        """Return the sum [batch, height, width, channels]."""
        for source in sources:
            if source not in self._maps:
                self._maps[source] = self.norm(name=f"source{source}_norm")(outputs[source])
        read = weighted(self._maps, sources, weights)
        inputs, maps = [outputs[source] for source in sources], [read[source] for source in sources]
        if not self.weighted:
            return affine_sum(inputs, maps)
        return WeightedSum(name=f"weights{layer}")(inputs, maps)


class WeightedSum(nn.Module):
    """sum_i weights[i] * map_i(x_i), by channel, in the dtype of x."""

    @nn.compact
    def __call__(self, inputs: Sequence[jax.Array], maps: Sequence[Affine]) -> jax.Array:
        """Map inputs of one shape [..., channels] to their weighted sum."""
        shape = (len(inputs), inputs[0].shape[-1])
        weights = self.param("weights", nn.initializers.ones, shape)
        scaled = [Affine(w * f, w * s) for w, (f, s) in zip(weights, maps, strict=True)]
        return affine_sum(inputs, scaled)


def affine_sum(inputs: Sequence[jax.Array], maps: Sequence[Affine]) -> jax.Array:
    """Return sum_i map_i(x_i), in the dtype of the inputs.

    The shifts are added first. So the gradient keeps no normalised input, only its factor and
    shift: two numbers for each image and channel.
    """
    total = functools.reduce(operator.add, [shift for _, shift in maps])
    for x, (factor, _) in zip(inputs, maps, strict=True):
        total = total + factor * x
    return total.astype(inputs[0].dtype)


def weighted(outputs: Outputs, sources: Indices, weights: Weights) -> Outputs:
    """Return the outputs of the sources, each multiplied by the weight of its link if given."""
    if weights is None:
        return outputs
    return {
        source: jax.tree.map(lambda y, w=weights[i]: y * w.astype(y.dtype), outputs[source])
        for i, source in enumerate(sources)
    }


def _mask(weight: float | jax.Array, y: jax.Array) -> jax.Array:
    """Return the mask [channels] of y [..., channels] that is `weight` everywhere."""
    return jnp.broadcast_to(jnp.asarray(weight, y.dtype), y.shape[-1:])


def pad_channels(x: jax.Array, features: int) -> jax.Array:
    """Append zeros to the channels: [..., channels] -> [..., features]."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, features - x.shape[-1])])


AGGREGATIONS: dict[str, Callable[[], Aggregation]] = {
    "concat": lambda: concat,
    "sum": Sum,
    "padded_sum": PaddedSum,
    "mean": Mean,
}


_OWN: set[str] = set()


def register_aggregation(name: str, make: Callable[[], Aggregation]) -> None:
    """Register an aggregation, for use wherever a network takes "sum".

    Args:
      name: name of the aggregation in configs.
      make: `make()` makes a new aggregation, a function (see above), for each pass through a stage.
        It combines outputs of one shape.

    Raises:
      UserError: for the name of an aggregation of this package.
    """
    if name in AGGREGATIONS and name not in _OWN:
        raise UserError(f"there is an aggregation {name!r} already; give yours another name")
    _OWN.add(name)
    AGGREGATIONS[name] = make


def make_aggregation(aggregation: str | Callable[[], Aggregation]) -> Aggregation:
    """Make a new aggregation from a name or a function; raise `UserError` for an unknown name."""
    if callable(aggregation):
        return aggregation()
    return choose("aggregation", AGGREGATIONS, aggregation)()


def check_aggregation(
    name: str,
    allowed: Sequence[str] = ("concat", "sum", "mean"),
    because: str = "the layers have one width",
) -> None:
    """Raise `UserError` for an aggregation for which a network is not defined.

    If a sum is allowed, the aggregations that users have registered are allowed, too. The message
    has the reason (`because`) why only the `allowed` ones make sense.
    """
    if name in allowed or (name in _OWN and "sum" in allowed):
        return
    if name in AGGREGATIONS:
        listed = ", ".join(allowed)
        raise UserError(f"aggregation {name!r} does not fit here: {because}; allowed: {listed}")
    raise unknown("aggregation", str(name), allowed)
