"""Runs of equal layers, and the buffers in which a loop over them keeps their outputs."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from aggnets_jax.connectivity.aggregation import pad_channels
from aggnets_jax.connectivity.topology import Topology


class Run(NamedTuple):
    """Consecutive layers that one loop computes.

    Attributes:
      first: layer, counted from 1.
      last: layer.
      sources: of each layer; filled up with -1 to equal numbers.
    """

    first: int
    last: int
    sources: tuple[tuple[int, ...], ...]

    @property
    def name(self) -> str:
        """Of its variables."""
        return f"layer{self.first}" if self.single else f"layers{self.first}_{self.last}"

    @property
    def single(self) -> bool:
        """Whether it is a layer alone, whose variables have no axis of layers."""
        return self.first == self.last


def find_runs(
    topology: Topology, first: int, key: Callable[[int], Any], *, fill: bool = False
) -> tuple[Run, ...]:
    """Cuts the layers from `first` on where the key of a layer is another than that before.

    With `fill` layers of one run may have different numbers of sources.
    """
    runs: list[list[int]] = []
    for layer in range(first, topology.depth + 1):
        if runs and key(layer) == key(layer - 1):
            runs[-1].append(layer)
        else:
            runs.append([layer])

    def run(layers: list[int]) -> Run:
        sources = [tuple(topology.sources_of(layer)) for layer in layers]
        most = max(map(len, sources))
        assert fill or min(map(len, sources)) == most
        sources = [(*read, *[-1] * (most - len(read))) for read in sources]
        return Run(layers[0], layers[-1], tuple(sources))

    return tuple(map(run, runs))


class Buffer(Protocol):
    """Where the outputs of a stage are, and their gradients; both are pytrees of arrays.

    `layer` and `sources` are numbers, or traced ones in a loop.
    """

    runs: tuple[Run, ...]

    def start(self, outputs: Sequence[Any], like: Any) -> Any:
        """One with y_0, ..., y_i, which were computed before; `like` has the shape of the rest."""

    def read(self, buffer: Any, run: Run, sources: Any) -> Any:
        """What a layer reads."""

    def write(self, buffer: Any, layer: Any, output: Any) -> Any:
        """The buffer with one more output."""

    def end(self, buffer: Any) -> Any:
        """What the stage puts out."""

    def start_gradient(self, gradient: Any) -> list[Any]:
        """Of the outputs it was started with."""

    def write_gradient(self, gradient: Any, layer: Any) -> Any:
        """Of one output."""

    def add_gradient(self, gradient: Any, run: Run, sources: Any, added: Any) -> Any:
        """The gradient with that of what a layer has read."""

    def end_gradient(self, buffer: Any, added: Any) -> Any:
        """A gradient that has that of what the stage puts out."""


class Slots:
    """An array [layers + 1, ...] with a place for each output; outputs may be pytrees.

    Layers read lists of outputs, with zeros for the source -1. Where some layers of a run read a
    wider y_0 last, the last that the others read is as wide, with zeros.
    """

    def __init__(self, runs: Sequence[Run], end: Sequence[int], *, apart: bool) -> None:
        """Takes the runs, what the stage puts out, and whether y_0 has a shape of its own."""
        self.runs = tuple(runs)
        self._end = tuple(end)
        self._apart = apart

    def start(self, outputs: Sequence[Any], like: Any) -> Any:  # noqa: D102
        size = self.runs[-1].last + 1
        slots = jax.tree.map(lambda y: jnp.zeros((size, *y.shape), y.dtype), like)
        buffer = (outputs[0] if self._apart else None), slots
        for slot in range(self._apart, len(outputs)):
            buffer = self.write(buffer, slot, outputs[slot])
        return buffer

    def read(self, buffer: Any, run: Run, sources: Any) -> list[Any]:  # noqa: D102
        if not self._mixed(run):
            return [self._get(buffer, source) for source in self._of(run, sources)]
        *near, far = sources
        last = jax.tree.map(
            lambda y_0, y: jnp.where(far == 0, y_0, pad_channels(y, y_0.shape[-1])),
            buffer[0],
            self._get(buffer, far),
        )
        return [*(self._get(buffer, source) for source in near), last]

    def write(self, buffer: Any, layer: Any, output: Any) -> Any:  # noqa: D102
        return buffer[0], jax.tree.map(lambda b, y: b.at[layer].set(y), buffer[1], output)

    def end(self, buffer: Any) -> list[Any]:  # noqa: D102
        return [self._get(buffer, source) for source in self._end]

    def start_gradient(self, gradient: Any) -> list[Any]:  # noqa: D102
        return [self._get(gradient, slot) for slot in range(self.runs[0].first)]

    def write_gradient(self, gradient: Any, layer: Any) -> Any:  # noqa: D102
        return self._get((None, gradient[1]), layer)

    def add_gradient(  # noqa: D102
        self, gradient: Any, run: Run, sources: Any, added: Sequence[Any]
    ) -> Any:
        if self._mixed(run):
            *added, last = added
            *sources, far = sources
            of_input = jax.tree.map(lambda g: jnp.where(far == 0, g, 0), last)
            of_other = jax.tree.map(
                lambda g, slots: jnp.where(far == 0, 0, g[..., : slots.shape[-1]]),
                last,
                gradient[1],
            )
            gradient = self._add(self._add(gradient, 0, of_input), far, of_other)
        for source, term in zip(self._of(run, sources), added, strict=True):
            gradient = self._add(gradient, source, term)
        return gradient

    def end_gradient(self, buffer: Any, added: Sequence[Any]) -> Any:  # noqa: D102
        gradient = jax.tree.map(jnp.zeros_like, buffer)
        for source, term in zip(self._end, added, strict=True):
            gradient = self._add(gradient, source, term)
        return gradient

    def _of(self, run: Run, sources: Any) -> Sequence[Any]:
        return run.sources[0] if run.single else list(sources)

    def _mixed(self, run: Run) -> bool:
        """Whether some layers of a run read y_0, which has a shape of its own."""
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
            if not isinstance(source, int):
                y = jnp.where(source < 0, jnp.zeros((), y.dtype), y)
            return slots.at[source if isinstance(source, int) else jnp.maximum(source, 0)].add(y)

        return buffer[0], jax.tree.map(add, buffer[1], term)


class Channels:
    """One array [..., channels] of all outputs, side by side; with statistics arrays [channels].

    Layers of a run read the channels that its last layer reads.
    """

    def __init__(self, runs: Sequence[Run], input_width: int, width: int) -> None:
        """Takes the runs, the channels of y_0 and of any other output."""
        self.runs = tuple(runs)
        self._input_width = input_width
        self._width = width

    def start(self, outputs: Sequence[Any], like: Any) -> Any:  # noqa: D102
        (y_0,) = outputs
        added = self.runs[-1].last * self._width
        return jax.tree.map(lambda y: jnp.pad(y, [(0, 0)] * (y.ndim - 1) + [(0, added)]), y_0)

    def read(self, buffer: Any, run: Run, sources: Any) -> Any:  # noqa: D102
        return jax.tree.map(lambda b: b[..., : self._offset(run.last)], buffer)

    def write(self, buffer: Any, layer: Any, output: Any) -> Any:  # noqa: D102
        def write(b: jax.Array, y: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice_in_dim(b, y, self._offset(layer), -1)

        return jax.tree.map(write, buffer, output)

    def end(self, buffer: Any) -> Any:  # noqa: D102
        return buffer

    def start_gradient(self, gradient: Any) -> list[Any]:  # noqa: D102
        return [jax.tree.map(lambda g: g[..., : self._input_width], gradient)]

    def write_gradient(self, gradient: Any, layer: Any) -> Any:  # noqa: D102
        def get(g: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(g, self._offset(layer), self._width, -1)

        return jax.tree.map(get, gradient)

    def add_gradient(self, gradient: Any, run: Run, sources: Any, added: Any) -> Any:  # noqa: D102
        def add(g: jax.Array, a: jax.Array) -> jax.Array:
            return g.at[..., : a.shape[-1]].add(a)

        return jax.tree.map(add, gradient, added)

    def end_gradient(self, buffer: Any, added: Any) -> Any:  # noqa: D102
        return added

    def _offset(self, layer: Any) -> Any:
        return self._input_width + (layer - 1) * self._width
