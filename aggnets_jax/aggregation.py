"""What a layer makes of the outputs it reads: concatenation, sum or mean.

An aggregation is called with the outputs of a stage so far and the indices of those to combine.
Make a new one for every pass through a stage (`make_aggregation`): sums remember what they have
added.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from aggnets_jax import named
from aggnets_jax.errors import UserError

Aggregation = Callable[[Sequence[jax.Array], Sequence[int]], jax.Array]
"""`(outputs, sources) -> aggregate`: outputs [..., channels] each, sources index into them."""


def _concat(outputs: Sequence[jax.Array], sources: Sequence[int]) -> jax.Array:
    if len(sources) == 1:
        return outputs[sources[0]]
    return jnp.concatenate([outputs[source] for source in sources], axis=-1)


class _Sum:
    """Adds from the first source to the last, and what begins with the same sources only once.

    Under the dense topology this makes the running sum of a residual network, with its N additions
    and not N^2 / 2, and with its rounding.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[int, ...], jax.Array] = {}

    def __call__(self, outputs: Sequence[jax.Array], sources: Sequence[int]) -> jax.Array:
        sources = tuple(sources)
        if sources in self._sums:
            return self._sums[sources]
        done = len(sources) - 1 if sources[:-1] in self._sums else 1
        total = self._sums[sources[:done]] if done > 1 else outputs[sources[0]]
        for end in range(done + 1, len(sources) + 1):
            term = outputs[sources[end - 1]]
            if term.shape != total.shape:
                raise UserError(
                    "aggregation by sum or mean needs outputs of one shape,"
                    f" got {total.shape} and {term.shape}"
                )
            total = self._sums[sources[:end]] = total + term
        return total


class _Mean:
    def __init__(self) -> None:
        self._sum = _Sum()

    def __call__(self, outputs: Sequence[jax.Array], sources: Sequence[int]) -> jax.Array:
        return self._sum(outputs, sources) / len(sources)


AGGREGATIONS: dict[str, Callable[[], Aggregation]] = {
    "concat": lambda: _concat,
    "sum": _Sum,
    "mean": _Mean,
}


def make_aggregation(name: str) -> Aggregation:
    """Returns a fresh "concat", "sum" or "mean", or raises `UserError`."""
    return named.choose("aggregation", AGGREGATIONS, name)()
