"""What a layer makes of the outputs it reads: concatenation, a sum of some kind, or between them.

An aggregation is called with the outputs of a stage so far, the indices of those to combine, and
the number of the layer that reads them. Make a new one for every pass through a stage
(`make_aggregation`): sums remember what they have added. One that has parameters makes them in the
stage that calls it, by the number of the layer.

With link masks (`stage.Stage`) it gets the weights of the links, too, and multiplies what travels
on each: the addend of a sum, and the channels of a concatenation, though only where they are used.
"""

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from aggnets_jax.arguments import choose
from aggnets_jax.errors import UserError, unknown

Outputs = Sequence[Any] | Mapping[int, Any]
Aggregation = Callable[..., Any]
"""`(outputs, sources, layer, weights=None) -> aggregate`: outputs [..., channels], sources index
into them. `weights` are those of the links, float [sources], if there are any; what is concatenated
then comes back as `Masked`."""


class Masked(struct.PyTreeNode):
    """Features, some of which are to be multiplied behind what normalises and activates them.

    Only so is a link of weight 0 without any effect: BN(0) is not 0.

    Attributes:
      features: [..., channels], or a pytree of such.
      mask: [channels] of each.
    """

    features: Any
    mask: Any

    def applied(self) -> Any:
        """The features multiplied, as whoever convolves them without a normalisation reads them."""
        return jax.tree.map(jnp.multiply, plain(self.features), self.mask)

    def scaled(self, weight: jax.Array) -> "Masked":
        """The same behind one more link of the given weight []."""
        return self.replace(mask=jax.tree.map(lambda m: m * weight.astype(m.dtype), self.mask))


class Measured(struct.PyTreeNode):
    """Features with the statistics by which batch normalisation normalises them in training.

    Whoever normalises a feature does so by the same mean and variance, which are computed where the
    feature is. They are concatenated as the features are.

    Attributes:
      features: [..., channels].
      mean: [channels], of at least float32.
      var: [channels], the biased variance, of at least float32.
    """

    features: Any
    mean: jax.Array
    var: jax.Array


def measured(x: jax.Array) -> Measured:
    """X [..., channels] with its statistics."""
    return Measured(x, *batch_statistics(x))


def plain(x: Any) -> Any:
    """X without its statistics, if it has any."""
    return x.features if isinstance(x, Measured) else x


def batch_statistics(x: jax.Array, axis_name: str | None = None) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance [channels] of x [..., channels], of at least float32.

    The variance is E[x^2] - E[x]^2, as in `nn.BatchNorm`: both means take one reading of x. With
    the name of a mapped axis they are those over all its parts.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    axes = tuple(range(x.ndim - 1))
    squares = jax.lax.square(x)
    mean, mean_of_squares = x.mean(axes), squares.mean(axes)
    if axis_name is not None:
        mean, mean_of_squares = jax.lax.pmean((mean, mean_of_squares), axis_name)
    return mean, jnp.maximum(0.0, mean_of_squares - jax.lax.square(mean))


def weighted(outputs: Outputs, sources: Sequence[int], weights: jax.Array | None) -> Outputs:
    """The outputs of some sources, each multiplied by the weight of its link."""
    if weights is None:
        return outputs
    return {
        source: jax.tree.map(lambda y, w=weights[i]: y * w.astype(y.dtype), outputs[source])
        for i, source in enumerate(sources)
    }


def concat(
    outputs: Outputs, sources: Sequence[int], layer: int, weights: jax.Array | None = None
) -> Any:
    """[y_i || y_j || ...]; outputs that are pytrees are joined leaf by leaf."""
    del layer

    def join(*leaves: jax.Array) -> jax.Array:
        return leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves, axis=-1)

    read = [outputs[source] for source in sources]
    features = jax.tree.map(join, *read)
    if weights is None:
        return features
    masks = [
        jax.tree.map(lambda y, w=w: _mask(w, y), plain(y))
        for w, y in zip(weights, read, strict=True)
    ]
    return Masked(features, jax.tree.map(join, *masks))


def _mask(weight: float | jax.Array, y: jax.Array) -> jax.Array:
    """[channels] of y [..., channels], all of them `weight`."""
    return jnp.broadcast_to(jnp.asarray(weight, y.dtype), y.shape[-1:])


class _Sum:
    """Adds from the first source to the last, and what begins with the same sources only once.

    Under the dense topology this makes the running sum of a residual network, with its N additions
    and not N^2 / 2, and with its rounding.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[int, ...], jax.Array] = {}

    def __call__(
        self,
        outputs: Outputs,
        sources: Sequence[int],
        layer: int,
        weights: jax.Array | None = None,
    ) -> jax.Array:
        del layer
        if weights is not None:
            # No two layers have links of the same weights, for all that is known.
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


class _PaddedSum(_Sum):
    """A sum of outputs of several widths, the narrower padded with zeros (PyramidNet, Fig. 6)."""

    def _add(self, total: jax.Array, term: jax.Array) -> jax.Array:
        width = max(total.shape[-1], term.shape[-1])
        return super()._add(pad_channels(total, width), pad_channels(term, width))


class _Mean:
    def __init__(self) -> None:
        self._sum = _Sum()

    def __call__(
        self,
        outputs: Outputs,
        sources: Sequence[int],
        layer: int,
        weights: jax.Array | None = None,
    ) -> jax.Array:
        return self._sum(outputs, sources, layer, weights) / len(sources)


class Mixed(_Sum):
    """Concatenation in which neighbours overlap by some channels, which are added (MixNet).

    Without overlap it is a concatenation, with all channels in it a sum. As the sum of a residual
    network it is a running one: what begins with the same sources is joined only once.

    Of masked links, channels of one output alone are multiplied where they are used, and those that
    are sums are sums of what is multiplied.
    """

    def __init__(self, overlap: int) -> None:
        """Takes the channels that each output shares with the ones before it."""
        super().__init__()
        self.overlap = overlap

    def __call__(
        self,
        outputs: Outputs,
        sources: Sequence[int],
        layer: int,
        weights: jax.Array | None = None,
    ) -> jax.Array | Masked:
        """[..., channels] each -> [..., all channels - overlaps]."""
        if weights is None:
            return super().__call__(outputs, sources, layer)
        read = [
            Masked(outputs[s], _mask(w, outputs[s])) for w, s in zip(weights, sources, strict=True)
        ]
        return functools.reduce(self._add_masked, read)

    def _add_masked(self, total: Masked, term: Masked) -> Masked:
        """The same of masked outputs: what overlaps is multiplied before it is added."""
        ones = _mask(1, total.features[..., : self.overlap])
        kept = total.mask.shape[-1] - self.overlap
        late = Masked(None, jnp.concatenate([total.mask[:kept], ones, term.mask[self.overlap :]]))
        early_total = total.features * total.mask.at[:kept].set(1)
        early_term = term.features * term.mask.at[self.overlap :].set(1)
        return late.replace(features=self._add(early_total, early_term))

    def _add(self, total: jax.Array, term: jax.Array) -> jax.Array:
        """[..., channels] each -> [..., all channels - overlap]."""
        kept = total.shape[-1] - self.overlap
        if kept < 0 or term.shape[-1] < self.overlap:
            raise UserError(
                f"outputs of {total.shape[-1]} and {term.shape[-1]} channels can't overlap by"
                f" {self.overlap}"
            )
        shared = super()._add(total[..., kept:], term[..., : self.overlap])
        return jnp.concatenate([total[..., :kept], shared, term[..., self.overlap :]], axis=-1)


class DualPath:
    """The first channels of all outputs added, the rest concatenated (DPN)."""

    def __init__(self, residual: int) -> None:
        """Takes the channels that are added."""
        self.residual = residual
        self._sum = _Sum()

    def __call__(
        self,
        outputs: Outputs,
        sources: Sequence[int],
        layer: int,
        weights: jax.Array | None = None,
    ) -> jax.Array | Masked:
        """[..., residual + any] each -> [..., residual + sum of any]."""
        first = {s: outputs[s][..., : self.residual] for s in sources}
        added = self._sum(first, sources, layer, weights)
        rest = {s: outputs[s][..., self.residual :] for s in sources}
        rest = concat(rest, sources, layer, weights)
        if weights is None:
            return jnp.concatenate([added, rest], axis=-1)
        return Masked(
            jnp.concatenate([added, rest.features], axis=-1),
            jnp.concatenate([_mask(1, added), rest.mask]),
        )


class Affine(NamedTuple):
    """The map x -> factor x + shift, as normalisations are; both broadcast against x."""

    factor: jax.Array
    shift: jax.Array


def affine_sum(inputs: Sequence[jax.Array], maps: Sequence[Affine]) -> jax.Array:
    """The sum of all maps of their inputs, in the dtype of these.

    So that of a normalised input no more than two numbers for each image and channel are kept.
    """
    total = functools.reduce(operator.add, [shift for _, shift in maps])
    for x, (factor, _) in zip(inputs, maps, strict=True):
        total = total + factor * x
    return total.astype(inputs[0].dtype)


class NormalisedSum:
    """sum_i W[layer, i] * N(y_i): weighted normalised shortcuts (DSNet, eq. 12).

    The statistics of N are computed once for each output and shared by all layers that read it. W
    is the parameter `weights{layer}/weights` [sources, channels] of the stage, 1 at first.
    """

    def __init__(
        self, norm: Callable[..., Callable[[jax.Array], Affine]], *, weighted: bool = True
    ) -> None:
        """Takes `norm(name=...)`, which makes N, and whether W is learnt rather than 1."""
        self.norm = norm
        self.weighted = weighted
        self._maps: dict[int, Affine] = {}

    def __call__(
        self,
        outputs: Outputs,
        sources: Sequence[int],
        layer: int,
        weights: jax.Array | None = None,
    ) -> jax.Array:
        """[batch, height, width, channels] each -> the same shape."""
        for source in sources:
            if source not in self._maps:
                norm = self.norm(name=f"source{source}_norm")
                self._maps[source] = norm(outputs[source])
        read = weighted(self._maps, sources, weights)
        inputs, maps = [outputs[source] for source in sources], [read[source] for source in sources]
        if not self.weighted:
            return affine_sum(inputs, maps)
        return WeightedSum(name=f"weights{layer}")(inputs, maps)


class WeightedSum(nn.Module):
    """sum_i weights[i] * map_i(x_i), by channel, in the dtype of x."""

    @nn.compact
    def __call__(self, inputs: Sequence[jax.Array], maps: Sequence[Affine]) -> jax.Array:
        """[..., channels] each -> the same shape."""
        shape = (len(inputs), inputs[0].shape[-1])
        weights = self.param("weights", nn.initializers.ones, shape)
        scaled = [
            Affine(w * factor, w * shift) for w, (factor, shift) in zip(weights, maps, strict=True)
        ]
        return affine_sum(inputs, scaled)


def pad_channels(x: jax.Array, features: int) -> jax.Array:
    """[..., channels] -> [..., features], the new ones zero."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, features - x.shape[-1])])


AGGREGATIONS: dict[str, Callable[[], Aggregation]] = {
    "concat": lambda: concat,
    "sum": _Sum,
    "padded_sum": _PaddedSum,
    "mean": _Mean,
}


def check_aggregation(
    name: str,
    allowed: Sequence[str] = ("concat", "sum", "mean"),
    because: str = "the layers have one width",
) -> None:
    """Raises `UserError` for an aggregation that is not among those a network is defined for.

    Args:
      name: of the aggregation.
      allowed: for the network.
      because: why others that there are would make no sense.
    """
    if name in allowed:
        return
    if name in AGGREGATIONS:
        listed = ", ".join(allowed)
        raise UserError(f"aggregation {name!r} does not fit here: {because}; allowed: {listed}")
    raise unknown("aggregation", str(name), allowed)


def make_aggregation(aggregation: str | Callable[[], Aggregation]) -> Aggregation:
    """Makes a fresh one from a name or a function; raises `UserError` for an unknown name."""
    if callable(aggregation):
        return aggregation()
    return choose("aggregation", AGGREGATIONS, aggregation)()
