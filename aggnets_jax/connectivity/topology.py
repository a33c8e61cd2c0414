"""Connection patterns of a stage, as data: who reads whom.

A stage of depth N has the outputs y_0 (its input), y_1, ..., y_N (those of its layers). A
`Topology` says which of them each layer l = 1..N reads, and which make up the output of the stage,
written as the virtual layer N + 1. What is done with them is the business of the aggregation; so
nothing here needs JAX.

A pattern is a function `pattern(depth, *, ...)` that returns the sources of layers 1..depth + 1, in
the order in which they are aggregated. Register a new one with `@pattern`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from aggnets_jax.arguments import check_arguments, check_number, check_whole_number, choose
from aggnets_jax.errors import UserError

Link = tuple[int, int]
"""`(layer, source)`: the layer reads the output of the source."""

Sources = Sequence[Sequence[int]]
"""For layers 1..depth + 1, the indices of the outputs that each reads, in order."""

TopologyArgs = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
"""Arguments of a pattern, or those of each stage."""

PATTERNS: dict[str, Callable[..., Sources]] = {}

# Layers of a stage. A dense one of this depth still builds in a second, and has 8 million links.
MAX_DEPTH = 4096


@dataclasses.dataclass(frozen=True)
class Topology:
    """Who reads whom in one stage.

    Attributes:
      name: the pattern it came from.
      sources: `sources[l - 1]` are the outputs that layer l reads, in order; the last entry those
        that make up the stage's output.

    Raises:
      UserError: if a layer reads nothing, reads an output twice, or one that is not before it.
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
            wrong = [source for source in sources if not 0 <= source < layer]
            if wrong:
                raise UserError(
                    f"topology {self.name!r}: {reader} reads {wrong[0]}; allowed: 0..{layer - 1}"
                )

    @property
    def depth(self) -> int:
        """N, the number of layers of the stage."""
        return len(self.sources) - 1

    def sources_of(self, layer: int) -> tuple[int, ...]:
        """Outputs that `layer` (1..N, or N + 1 for the stage's output) reads, in order."""
        if not 1 <= layer <= self.depth + 1:
            raise UserError(f"no layer {layer}; allowed: 1..{self.depth + 1}")
        return self.sources[layer - 1]

    @property
    def output_sources(self) -> tuple[int, ...]:
        """Outputs that make up the output of the stage, in order."""
        return self.sources[-1]

    @property
    def unread(self) -> tuple[int, ...]:
        """Layers whose output no layer and no output of the stage reads."""
        read = {source for sources in self.sources for source in sources}
        return tuple(layer for layer in range(1, self.depth + 1) if layer not in read)

    @property
    def links(self) -> tuple[Link, ...]:
        """All links as `(layer, source)`, those of the stage's output (layer N + 1) last."""
        return tuple((n, s) for n, sources in enumerate(self.sources, start=1) for s in sources)

    @property
    def num_links(self) -> int:
        """Links into layers 1..N (SparseNet, eq. 4); the output reads `output_sources` besides."""
        return sum(len(sources) for sources in self.sources[:-1])

    def aggregated_features(
        self, growth_rate: int = 1, in_features: int | None = None
    ) -> tuple[int, ...]:
        """Channels that each of the layers 1..N + 1 reads under concatenation (Table 1).

        Args:
          growth_rate: channels of the output of a layer; 1 counts outputs.
          in_features: channels of y_0; default `growth_rate`.
        """
        widths = [growth_rate if in_features is None else in_features, *[growth_rate] * self.depth]
        return tuple(sum(widths[source] for source in sources) for sources in self.sources)

    def shortest_paths(self) -> np.ndarray:
        """Lengths, in links, of the shortest gradient paths between any two outputs.

        Returns:
          Array of float64 [N + 2, N + 2]; entry [l, s] is the least number of links that lead from
          layer l (N + 1 is the stage's output) back to the output s; infinity if none do.
        """
        lengths = np.full([self.depth + 2] * 2, math.inf)
        np.fill_diagonal(lengths, 0)
        for layer, sources in enumerate(self.sources, start=1):
            lengths[layer, :layer] = 1 + lengths[list(sources), :layer].min(axis=0)
        return lengths

    def shortest_path(self, layer: int, source: int) -> float:
        """Length of the shortest gradient path from `layer` back to `source`, see above."""
        if not 0 <= source <= layer <= self.depth + 1:
            raise UserError(f"no path from {layer} back to {source}; allowed: 0..{self.depth + 1}")
        return float(self.shortest_paths()[layer, source])

    def adjacency(self) -> np.ndarray:
        """Array of bool [N + 1, N + 1]: entry [l - 1, s] says that layer l reads the output s."""
        matrix = np.zeros([self.depth + 1] * 2, dtype=bool)
        for layer, source in self.links:
            matrix[layer - 1, source] = True
        return matrix

    def remove(self, links: Iterable[Link]) -> "Topology":
        """The same pattern without some links.

        Args:
          links: pairs `(layer, source)`.

        Raises:
          UserError: for a link that is not there, or a layer that would read nothing.
        """
        removed = {(int(layer), int(source)) for layer, source in links}
        absent = sorted(removed - set(self.links))
        if absent:
            raise UserError(f"topology {self.name!r} has no link {absent[0]} (layer, source)")
        return Topology(
            self.name,
            tuple(
                tuple(source for source in sources if (layer, source) not in removed)
                for layer, sources in enumerate(self.sources, start=1)
            ),
        )


def pattern(function: Callable[..., Sources]) -> Callable[..., Sources]:
    """Registers a pattern under the name of its function."""
    PATTERNS[function.__name__] = function
    return function


def make_topology(name: str, depth: int, /, **arguments: Any) -> Topology:
    """Builds a pattern by name.

    Args:
      name: one of `PATTERNS`; "log-dense" is as good as "log_dense".
      depth: N, the number of layers.
      **arguments: the pattern's own, such as `base` of "sparse".

    Raises:
      UserError: for an unknown name or argument, a value the pattern does not admit, or more than
        `MAX_DEPTH` layers.
    """
    check_whole_number("the depth of a stage", depth, 1, MAX_DEPTH)
    name = str(name).replace("-", "_")
    function = choose("topology", PATTERNS, name)
    check_arguments(f"topology {name!r}", function, arguments)
    return Topology(name, tuple(tuple(map(int, s)) for s in function(depth, **arguments)))


def per_stage(what: str, value: Any, stages: int) -> tuple[Any, ...]:
    """One value for each stage: a list or tuple has them (or one for all), anything else is one.

    Raises:
      UserError: if there are neither one nor `stages` of them, or no stages.
    """
    if not stages:
        raise UserError("a network has at least one stage, got none")
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    if len(values) == 1:
        values *= stages
    if len(values) != stages:
        raise UserError(f"{what} has {len(values)} values for {stages} stages")
    return values


def stage_topologies(
    name: str | Sequence[str],
    arguments: TopologyArgs,
    depths: Sequence[int],
    *,
    shortcuts: bool = False,
) -> tuple[Topology, ...]:
    """Builds the topologies of all stages.

    Args:
      name: of a pattern, or one for each stage.
      arguments: of the pattern, or one mapping for each stage.
      depths: layers of each stage.
      shortcuts: whether a layer reads the previous output, too, whatever the pattern, as in
        residual stages. Then no layer is unread, and a stage may have no layers: it is what is
        left behind the block that brings the input to the stage's width.

    Raises:
      UserError: as `make_topology` and `per_stage`, and for a layer that nothing reads.
    """
    names = per_stage("topology", name, len(depths))
    mappings = per_stage("topology_args", arguments or {}, len(depths))
    for mapping in mappings:
        if not hasattr(mapping, "keys"):
            raise UserError(f"topology_args are arguments by name, got {mapping!r}")
    topologies = tuple(
        Topology(n, ((0,),)) if shortcuts and depth == 0 else make_topology(n, depth, **args)
        for n, depth, args in zip(names, depths, mappings, strict=True)
    )
    return topologies if shortcuts else tuple(map(_without_dead_layers, topologies))


def _without_dead_layers(topology: Topology) -> Topology:
    if topology.unread:
        raise UserError(
            f"topology {topology.name!r}: nothing reads layer {topology.unread[0]} of"
            f" {topology.depth}, whose parameters would do nothing"
        )
    return topology


@pattern
def plain(depth: int) -> Sources:
    """Feed-forward: y_l = F_l(y_{l-1})."""
    return [[layer - 1] for layer in range(1, depth + 2)]


@pattern
def dense(depth: int) -> Sources:
    """Every earlier output, oldest first (SparseNet, eq. 3; ResNet and DenseNet)."""
    return [range(layer) for layer in range(1, depth + 2)]


@pattern
def sparse(depth: int, *, base: int = 2) -> Sources:
    """Offsets base^0, base^1, ... as far as they reach, newest first (SparseNet, eq. 2)."""
    check_whole_number("base", base, 2)
    offsets = [base**i for i in range(depth.bit_length() + 1)]
    return [[layer - o for o in offsets if o <= layer] for layer in range(1, depth + 2)]


@pattern
def log_dense(depth: int, *, base: float = 2.0) -> Sources:
    """Nearest integers to l - base^i for a real base (Log-DenseNet V1, arXiv 1711.00002).

    With base 2 it is "sparse"; a base below 2 fills in offsets between the powers of two.
    """
    check_number("base", base, 1.1, 1e6)
    powers = [base**i for i in range(math.ceil(math.log(depth + 1, base)) + 1)]
    return [
        sorted({layer - round(p) for p in powers if p <= layer}, reverse=True)
        for layer in range(1, depth + 2)
    ]


@pattern
def windowed(depth: int, *, window: int = 4) -> Sources:
    """The last `window` outputs, oldest first."""
    check_whole_number("window", window, 1)
    return [range(max(0, layer - window), layer) for layer in range(1, depth + 2)]


@pattern
def fractal(depth: int) -> Sources:
    """FractalNet (arXiv 1605.07648), its 2^C - 1 layers in C columns numbered by where they end.

    Column i has 2^(C-1-i) layers of span 2^i. Columns meet where their layers end together: who
    starts there reads the join of all that end there. Other depths chain the largest fractals.
    """
    sources, join = [], (0,)
    while len(sources) < depth:
        columns = (depth - len(sources) + 1).bit_length() - 1
        joins = {0: join}
        for position in range(1, 2 ** (columns - 1) + 1):
            spans = [2**i for i in range(columns) if position % 2**i == 0]
            joins[position] = range(len(sources) + 1, len(sources) + 1 + len(spans))
            sources += [joins[position - span] for span in spans]
        join = joins[position]
    return [*sources, join]


@pattern
def harmonic(depth: int) -> Sources:
    """Offsets 2^i where 2^i divides l (HarDNet, arXiv 1909.00948).

    The stage's output is every odd layer and the last, oldest first.
    """
    powers = [2**i for i in range(depth.bit_length())]
    layers = [[layer - p for p in powers if layer % p == 0] for layer in range(1, depth + 1)]
    return [*layers, [layer for layer in range(1, depth + 1) if layer % 2 or layer == depth]]


@pattern
def random(depth: int, *, density: float = 0.5, seed: int = 0) -> Sources:
    """The previous output, and each earlier one with probability `density`, oldest first.

    What layer l reads depends on (seed, l) alone, so a deeper stage begins like a shallower one.
    """
    check_number("density", density, 0, 1)
    check_whole_number("seed", seed, 0)
    drawn = [np.random.default_rng([seed, n]).random(n - 1) < density for n in range(1, depth + 2)]
    return [[*np.flatnonzero(chosen), len(chosen)] for chosen in drawn]


@pattern
def custom(depth: int, *, edges: Iterable[Link]) -> Sources:
    """Any pattern, from its links `(layer, source)`; layer depth + 1 is the stage's output."""
    if not isinstance(edges, Iterable):
        raise UserError(f"edges must be a list of pairs (layer, source), got {edges!r}")
    sources = [[] for _ in range(depth + 1)]
    for edge in edges:
        pair = tuple(edge) if isinstance(edge, Iterable) else ()
        if len(pair) != 2 or not all(isinstance(end, int | np.integer) for end in pair):
            raise UserError(f"an edge is a pair (layer, source) of whole numbers, got {edge!r}")
        layer, source = pair
        if not 1 <= layer <= depth + 1:
            raise UserError(f"edge {pair}: no layer {layer}; allowed: 1..{depth + 1}")
        sources[layer - 1].append(source)
    return sources
