"""Runs of equal layers, and the buffers in which a loop keeps the outputs of a stage.

`Slots` and `Channels` are layouts of a buffer, a pytree of arrays. Both have these methods, where
`layer` and `sources` are numbers, or traced arrays in a loop:

    start(outputs, like)           make a buffer of y_0, ..., y_i, with room for outputs like `like`
    read(buffer, run, sources)     return the input of a layer of a run
    write(buffer, layer, output)   return the buffer with one more output
    end(buffer)                    return the outputs that make up the stage's output

and for the backward pass, in which a second buffer holds the gradients of the outputs:

    end_gradient(buffer, added)      make the second buffer from the gradient of the result of `end`
    write_gradient(gradient, layer)  return the gradient of one output
    add_gradient(gradient, run, sources, added)    add the gradient of a layer's input
    start_gradient(gradient)         return the gradients of y_0, ..., y_i
"""
# ruff: noqa: D102

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from aggnets_jax.connectivity.aggregation import pad_channels
from aggnets_jax.connectivity.topology import Topology


class Run(NamedTuple):
    """Consecutive layers that one loop computes, with their numbers from `first` to `last`.

    The sources of each layer are filled up with -1 to equal numbers.
    """

    first: int
    last: int
    sources: tuple[tuple[int, ...], ...]

    @property
    def name(self) -> str:
        """Name of its variables."""
        return f"layer{self.first}" if self.single else f"layers{self.first}_{self.last}"

    @property
    def single(self) -> bool:
        """Whether it is a single layer. Its variables have no axis of layers."""
        return self.first == self.last


def find_runs(topology: Topology, first: int, key: Callable[[int], Any]) -> tuple[Run, ...]:
    """Split the layers from `first` on into runs of layers that have the same `key(layer)`."""

    def run(layers: Sequence[int]) -> Run:
        sources = [topology.sources_of(layer) for layer in layers]
        most = max(map(len, sources))
        filled = tuple((*read, *[-1] * (most - len(read))) for read in sources)
        return Run(layers[0], layers[-1], filled)

    layers = range(first, topology.depth + 1)
    return tuple(run(list(group)) for _, group in itertools.groupby(layers, key))


class Slots:
    """An array [layers + 1, ...] with a slot for each output; outputs may be pytrees.

    Layers read lists of outputs, with zeros for the source -1. If y_0 is wider than the others it
    is kept apart. Then, where some layers of a run read y_0 as their last source, the last source
    of the others is padded with zeros to its width.
    """

    def __init__(self, runs: Sequence[Run], end: Sequence[int], *, apart: bool) -> None:
        self.runs = tuple(runs)
        self._end = tuple(end)
        self._apart = apart

    def start(self, outputs: Sequence[Any], like: Any) -> Any:
        size = self.runs[-1].last + 1
        slots = jax.tree.map(lambda y: jnp.zeros((size, *y.shape), y.dtype), like)
        buffer = (outputs[0] if self._apart else None), slots
        for slot in range(self._apart, len(outputs)):
            buffer = self.write(buffer, slot, outputs[slot])
        return buffer

    def read(self, buffer: Any, run: Run, sources: Any) -> list[Any]:
        if not self._some_read_y_0(run):
            return [self._get(buffer, source) for source in _each(run, sources)]
        *near, far = sources
        last = jax.tree.map(
            lambda y_0, y: jnp.where(far == 0, y_0, pad_channels(y, y_0.shape[-1])),
            buffer[0],
            self._get(buffer, far),
        )
        return [*(self._get(buffer, source) for source in near), last]

    def write(self, buffer: Any, layer: Any, output: Any) -> Any:
        return buffer[0], jax.tree.map(lambda b, y: b.at[layer].set(y), buffer[1], output)

    def end(self, buffer: Any) -> list[Any]:
        return [self._get(buffer, source) for source in self._end]

    def end_gradient(self, buffer: Any, added: Sequence[Any]) -> Any:
        gradient = jax.tree.map(jnp.zeros_like, buffer)
        for source, term in zip(self._end, added, strict=True):
            gradient = self._add(gradient, source, term)
        return gradient

    def write_gradient(self, gradient: Any, layer: Any) -> Any:
        return self._get((None, gradient[1]), layer)

    def add_gradient(self, gradient: Any, run: Run, sources: Any, added: Sequence[Any]) -> Any:
        if self._some_read_y_0(run):
            *added, last = added
            *sources, far = sources
            of_input = jax.tree.map(lambda g: jnp.where(far == 0, g, 0), last)
            of_other = jax.tree.map(
                lambda g, slots: jnp.where(far == 0, 0, g[..., : slots.shape[-1]]),
                last,
                gradient[1],
            )
            gradient = self._add(self._add(gradient, 0, of_input), far, of_other)
        for source, term in zip(_each(run, sources), added, strict=True):
            gradient = self._add(gradient, source, term)
        return gradient

    def start_gradient(self, gradient: Any) -> list[Any]:
        return [self._get(gradient, slot) for slot in range(self.runs[0].first)]

    def _some_read_y_0(self, run: Run) -> bool:
        """Return whether in a loop some layers read y_0, which is kept apart."""
        return self._apart and not run.single and any(0 in read for read in run.sources)

    def _is_apart(self, source: Any) -> bool:
        return self._apart and isinstance(source, int) and source == 0

    def _get(self, buffer: Any, source: Any) -> Any:
        if self._is_apart(source):
            return buffer[0]

        def get(slots: jax.Array) -> jax.Array:
            if isinstance(source, int):
                return slots[source]
            found = jax.lax.dynamic_index_in_dim(slots, jnp.maximum(source, 0), keepdims=False)
            return jnp.where(source < 0, jnp.zeros((), found.dtype), found)

        return jax.tree.map(get, buffer[1])

    def _add(self, buffer: Any, source: Any, term: Any) -> Any:
        if self._is_apart(source):
            return jax.tree.map(jnp.add, buffer[0], term), buffer[1]

        def add(slots: jax.Array, y: jax.Array) -> jax.Array:
            if isinstance(source, int):
                return slots.at[source].add(y)
            y = jnp.where(source < 0, jnp.zeros((), y.dtype), y)
            return slots.at[jnp.maximum(source, 0)].add(y)

        return buffer[0], jax.tree.map(add, buffer[1], term)


def _each(run: Run, sources: Any) -> Sequence[Any]:
    """Return the sources of a layer one by one, as numbers if the run is a single layer."""
    return run.sources[0] if run.single else list(sources)


class Channels:
    """One array [..., channels] of all outputs side by side; statistics are arrays [channels].

    Each layer of a run reads the channels that its last layer reads.
    """

    def __init__(self, runs: Sequence[Run], input_width: int, width: int) -> None:
        self.runs = tuple(runs)
        self._input_width = input_width
        self._width = width

    def start(self, outputs: Sequence[Any], like: Any) -> Any:
        (y_0,) = outputs
        return jax.tree.map(lambda y: pad_channels(y, self._offset(self.runs[-1].last + 1)), y_0)

    def read(self, buffer: Any, run: Run, sources: Any) -> Any:
        return jax.tree.map(lambda b: b[..., : self._offset(run.last)], buffer)

    def write(self, buffer: Any, layer: Any, output: Any) -> Any:
        def write(b: jax.Array, y: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice_in_dim(b, y, self._offset(layer), -1)

        return jax.tree.map(write, buffer, output)

    def end(self, buffer: Any) -> Any:
        return buffer

    def end_gradient(self, buffer: Any, added: Any) -> Any:
        return added

    def write_gradient(self, gradient: Any, layer: Any) -> Any:
        def get(g: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(g, self._offset(layer), self._width, -1)

        return jax.tree.map(get, gradient)

    def add_gradient(self, gradient: Any, run: Run, sources: Any, added: Any) -> Any:
        return jax.tree.map(lambda g, a: g.at[..., : a.shape[-1]].add(a), gradient, added)

    def start_gradient(self, gradient: Any) -> list[Any]:
        return [jax.tree.map(lambda g: g[..., : self._input_width], gradient)]

    def _offset(self, layer: Any) -> Any:
        """Return the first channel of the output of a layer, counted from 1."""
        return self._input_width + (layer - 1) * self._width


Buffer = Slots | Channels
