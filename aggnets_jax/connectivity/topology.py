"""Topologies: which earlier outputs each layer of a stage reads. Pure data, without JAX.

A stage of depth N has the outputs y_0 (its input) and y_1, ..., y_N (its layers). A `Topology`
lists the outputs that each layer l = 1..N reads, and the outputs that make up the output of the
stage, as if a layer N + 1 read them. The aggregation (`aggregation.py`) combines them, and the
stage (`stage.py`) computes the layers.

`make_topology` makes one from a pattern (`patterns.py`), by name or as a function, or from links.
"""

import contextlib
import contextvars
import dataclasses
import math
import numbers
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from aggnets_jax.arguments import check_arguments, check_whole_number, choose
from aggnets_jax.connectivity.patterns import PATTERNS, Link, Pattern
from aggnets_jax.errors import UserError, one_line

TopologyArgs = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
"""Arguments of a pattern: one mapping for all stages, or one for each stage."""

# A dense stage of this depth still builds in a second, and has 8 million links.
MAX_DEPTH = 4096


@dataclasses.dataclass(frozen=True)
class Topology:
    """The connections of one stage.

    Attributes:
      name: the name of its pattern.
      sources: `sources[l - 1]` has the outputs that layer l reads, in order; the last entry has the
        outputs that make up the stage's output.

    Raises:
      UserError: if a layer reads nothing, an output twice, or an output that is not before it.
    """

    name: str
    sources: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        check_whole_number("the depth of a stage", self.depth, 0)
        for layer, sources in enumerate(self.sources, start=1):
            reader = f"layer {layer}" if layer <= self.depth else "the stage output"
            if not sources:
                raise UserError(f"topology {self.name!r}: {reader} reads nothing")
            if len(set(sources)) < len(sources):
                raise UserError(f"topology {self.name!r}: {reader} reads an output twice")
            wrong = [
                each
                for each in sources
                if not (isinstance(each, numbers.Integral) and 0 <= each < layer)
            ]
            if wrong:
                raise UserError(
                    f"topology {self.name!r}: {reader} reads {wrong[0]}; allowed: 0..{layer - 1}"
                )

    @property
    def depth(self) -> int:
        """N, the number of layers."""
        return len(self.sources) - 1

    def sources_of(self, layer: int) -> tuple[int, ...]:
        """Return the outputs that a layer 1..N + 1 reads, in order; N + 1 is the stage's output."""
        if not 1 <= layer <= self.depth + 1:
            raise UserError(f"no layer {layer}; allowed: 1..{self.depth + 1}")
        return self.sources[layer - 1]

    @property
    def output_sources(self) -> tuple[int, ...]:
        """Outputs that make up the stage's output, in order."""
        return self.sources[-1]

    @property
    def unread(self) -> tuple[int, ...]:
        """Layers whose output neither a layer nor the stage's output reads."""
        read = {source for sources in self.sources for source in sources}
        return tuple(layer for layer in range(1, self.depth + 1) if layer not in read)

    @property
    def links(self) -> tuple[Link, ...]:
        """All links `(layer, source)`; the links of the stage's output, layer N + 1, are last."""
        return tuple((n, s) for n, sources in enumerate(self.sources, start=1) for s in sources)

    @property
    def num_links(self) -> int:
        """Number of links into the layers 1..N, without the stage's output (SparseNet, eq. 4)."""
        return sum(len(sources) for sources in self.sources[:-1])

    def aggregated_features(
        self, growth_rate: int = 1, in_features: int | None = None
    ) -> tuple[int, ...]:
        """Return how many channels each layer 1..N + 1 reads by concatenation (SparseNet, Table 1).

        Outputs of layers have `growth_rate` channels; y_0 has `in_features`, or also `growth_rate`.
        """
        widths = [growth_rate if in_features is None else in_features, *[growth_rate] * self.depth]
        return tuple(sum(widths[source] for source in sources) for sources in self.sources)

    def shortest_paths(self) -> np.ndarray:
        """Return the lengths, in links, of the shortest gradient paths: float64 [N + 2, N + 2].

        Entry [l, s] is the smallest number of links from layer l (N + 1 is the stage's output) back
        to y_s, or infinity if there is no path.
        """
        lengths = np.full([self.depth + 2] * 2, math.inf)
        np.fill_diagonal(lengths, 0)
        for layer, sources in enumerate(self.sources, start=1):
            lengths[layer, :layer] = 1 + lengths[list(sources), :layer].min(axis=0)
        return lengths

    def shortest_path(self, layer: int, source: int) -> float:
        """Return the length of the shortest path from `layer` back to y_source, in links."""
        if not 0 <= source <= layer <= self.depth + 1:
            raise UserError(f"no path from {layer} back to {source}; allowed: 0..{self.depth + 1}")
        return float(self.shortest_paths()[layer, source])

    def adjacency(self) -> np.ndarray:
        """Return bool [N + 1, N + 1]; entry [l - 1, s] says whether layer l reads y_s."""
        matrix = np.zeros([self.depth + 1] * 2, dtype=bool)
        for layer, source in self.links:
            matrix[layer - 1, source] = True
        return matrix

    def remove(self, links: Iterable[Link]) -> "Topology":
        """Return the topology without some links `(layer, source)`.

        Raises:
          UserError: for a link that does not exist, or a layer that would read nothing.
        """
        try:
            removed = {(int(layer), int(source)) for layer, source in links}
        except (TypeError, ValueError) as error:
            raise UserError("links to remove must be pairs (layer, source) of numbers") from error
        absent = sorted(removed - set(self.links))
        if absent:
            raise UserError(f"topology {self.name!r} has no link {absent[0]} (layer, source)")
        kept = (
            tuple(source for source in sources if (layer, source) not in removed)
            for layer, sources in enumerate(self.sources, start=1)
        )
        return Topology(self.name, tuple(kept))


TopologyLike = str | Topology | Pattern | Sequence[Any]
"""The name of a pattern, a topology, a pattern function, or links `(layer, source)`; or a list with
one of these for each stage."""


class Made(NamedTuple):
    """A topology that a pattern made, and how."""

    topology: Topology
    arguments: Mapping[str, Any]


_MADE: contextvars.ContextVar[list[Made] | None] = contextvars.ContextVar("_MADE", default=None)


@contextlib.contextmanager
def recording() -> Iterator[list[Made]]:
    """Record the topologies that patterns make inside the context."""
    made: list[Made] = []
    token = _MADE.set(made)
    try:
        yield made
    finally:
        _MADE.reset(token)


def make_topology(pattern: TopologyLike, depth: int, /, **arguments: Any) -> Topology:
    """Make a topology from a pattern or from links.

    Args:
      pattern: the name of a pattern, a key of `PATTERNS` ("log-dense" means "log_dense"); a
        function like the ones in `PATTERNS`; links `(layer, source)`, as for the pattern `custom`;
        or a `Topology` of this depth, which is returned.
      depth: N, the number of layers, 1..`MAX_DEPTH`.
      **arguments: arguments of the pattern, such as `base` of "sparse".

    Returns:
      The topology of a stage with N layers.

    Raises:
      UserError: for an unknown name or argument, a value that is not allowed, a pattern that fails
        or returns lists for another depth, and a `Topology` of another depth.
    """
    check_whole_number("the depth of a stage", depth, 1, MAX_DEPTH)
    if isinstance(pattern, Topology):
        if pattern.depth != depth:
            raise UserError(
                f"topology {pattern.name!r} has {pattern.depth} layers, and the stage has {depth}"
            )
        if arguments:
            raise UserError(f"topology {pattern.name!r} is data and takes no arguments")
        return pattern
    if _are_links(pattern):
        pattern, arguments = "custom", {"edges": pattern, **arguments}
    if isinstance(pattern, str):
        name = pattern.replace("-", "_")
        function = choose("topology", PATTERNS, name)
    elif callable(pattern):
        name, function = getattr(pattern, "__name__", "custom"), pattern
    else:
        raise UserError(
            "a topology is the name of a pattern, a Topology, a function, or a list of links"
            f" (layer, source), got {pattern!r}"
        )
    check_arguments(f"topology {name!r}", function, arguments)
    topology = Topology(name, _sources(name, function, depth, arguments))
    if (made := _MADE.get()) is not None:
        made.append(Made(topology, arguments))
    return topology


def _are_links(value: Any) -> bool:
    """Return whether a value is a list of pairs of numbers, rather than of patterns."""
    return isinstance(value, list | tuple) and any(
        isinstance(pair, list | tuple)
        and len(pair) == 2
        and all(isinstance(end, int | np.integer) for end in pair)
        for pair in value
    )


def _sources(
    name: str, function: Pattern, depth: int, arguments: Mapping[str, Any]
) -> tuple[tuple[int, ...], ...]:
    try:
        found = function(depth, **arguments)
        sources = tuple(tuple(map(operator.index, each)) for each in found)
    except UserError:
        raise
    except Exception as error:  # a user's function may fail in any way
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"pattern {name!r} fails for {depth} layers: {reason}") from error
    if len(sources) != depth + 1:
        raise UserError(
            f"pattern {name!r} returns {len(sources)} lists for {depth} layers; it must return"
            f" {depth + 1}: the sources of each layer, and the outputs that make up the stage's"
        )
    return sources


def per_stage(what: str, value: Any, stages: int) -> tuple[Any, ...]:
    """Return one value for each stage; a list or tuple of one, or any other value, is for all.

    Raise `UserError`, which names `what`, for another number of values, or without stages.
    """
    if not stages:
        raise UserError("a network has at least one stage, got none")
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    if len(values) == 1:
        values *= stages
    if len(values) != stages:
        raise UserError(f"{what} has {len(values)} values for {stages} stages")
    return values


def stage_patterns(pattern: TopologyLike, stages: int) -> tuple[TopologyLike, ...]:
    """Return one pattern, topology or list of links for each stage, as `per_stage`."""
    return per_stage("topology", [pattern] if _are_links(pattern) else pattern, stages)


def stage_topologies(
    pattern: TopologyLike,
    arguments: TopologyArgs,
    depths: Sequence[int],
    *,
    shortcuts: bool = False,
    opened: bool = False,
) -> tuple[Topology, ...]:
    """Make the topologies of all stages of a network.

    Args:
      pattern: as for `make_topology`, or one for each stage.
      arguments: its arguments, or one mapping for each stage.
      depths: number of layers of each stage.
      shortcuts: whether the stages are residual: each layer also reads the previous output,
        whatever the pattern. Then no layer is unread.
      opened: whether a stage may have no layers beside the block that opens it, as with shortcuts.

    Raise `UserError` as `make_topology` and `per_stage`, and for a layer that nothing reads.
    """
    patterns = stage_patterns(pattern, len(depths))
    mappings = per_stage("topology_args", arguments or {}, len(depths))
    for mapping in mappings:
        if not hasattr(mapping, "keys"):
            raise UserError(f"topology_args must be a mapping of arguments, got {mapping!r}")
    topologies = tuple(
        Topology(each if isinstance(each, str) else "plain", ((0,),))
        if depth == 0 and (shortcuts or opened)
        else make_topology(each, depth, **args)
        for each, depth, args in zip(patterns, depths, mappings, strict=True)
    )
    for topology in () if shortcuts else topologies:
        if topology.unread:
            raise UserError(
                f"topology {topology.name!r}: nothing reads layer {topology.unread[0]} of"
                f" {topology.depth}, whose parameters would do nothing"
            )
    return topologies
