"""Topologies: which earlier outputs each layer of a stage reads. Pure data, without JAX.

A stage of depth N has the outputs y_0 (its input) and y_1, ..., y_N (its layers). A `Topology`
lists the outputs that each layer l = 1..N reads. It lists the outputs that make up the output of
the stage, too, as if the virtual layer N + 1 read them. The aggregation (`aggregation.py`) says how
they are combined, and the stage (`stage.py`) runs the layers.

A pattern is a function that returns the sources of the layers 1..depth + 1, in the order in which
they are aggregated. This is all that a new one takes:

    @pattern
    def skip_two(depth: int, *, skip: int = 2) -> Sources:
        '''Read the previous output and the one `skip` before it.'''
        return [sorted({layer - 1, max(0, layer - 1 - skip)}) for layer in range(1, depth + 2)]

Then `make_topology("skip_two", 12, skip=3)` makes it, and configs know it by its name.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from aggnets_jax.arguments import check_arguments, check_number, check_whole_number, choose
from aggnets_jax.errors import UserError

Link = tuple[int, int]
"""`(layer, source)`: the layer reads the output y_source."""

Sources = Sequence[Sequence[int]]
"""Sources of the layers 1..depth + 1: the indices of the outputs that each reads, in order."""

TopologyArgs = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
"""Arguments of a pattern: one mapping for all stages, or one for each stage."""

PATTERNS: dict[str, Callable[..., Sources]] = {}

# A dense stage of this depth still builds in a second, and has 8 million links.
MAX_DEPTH = 4096


@dataclasses.dataclass(frozen=True)
class Topology:
    """The connections of one stage.

    Attributes:
      name: the name of its pattern.
      sources: `sources[l - 1]` are the outputs that layer l reads, in order; the last entry are
        the outputs that make up the stage's output.

    Raise `UserError` if a layer reads nothing, an output twice, or an output that is not before it.
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
        """N, the number of layers."""
        return len(self.sources) - 1

    def sources_of(self, layer: int) -> tuple[int, ...]:
        """Return the outputs that layer 1..N, or N + 1 for the stage's output, reads, in order."""
        if not 1 <= layer <= self.depth + 1:
            raise UserError(f"no layer {layer}; allowed: 1..{self.depth + 1}")
        return self.sources[layer - 1]

    @property
    def output_sources(self) -> tuple[int, ...]:
        """Outputs that make up the stage's output, in order."""
        return self.sources[-1]

    @property
    def unread(self) -> tuple[int, ...]:
        """Layers whose output nothing reads, neither a layer nor the stage's output."""
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
        """Return the channels that each layer 1..N + 1 reads if concatenated (SparseNet, Table 1).

        The outputs of layers have `growth_rate` channels, and y_0 has `in_features` or as many.
        """
        widths = [growth_rate if in_features is None else in_features, *[growth_rate] * self.depth]
        return tuple(sum(widths[source] for source in sources) for sources in self.sources)

    def shortest_paths(self) -> np.ndarray:
        """Return the lengths, in links, of the shortest gradient paths: float64 [N + 2, N + 2].

        Entry [l, s] is the least number of links that lead from layer l (N + 1 is the stage's
        output) back to y_s, or infinity if no path does.
        """
        lengths = np.full([self.depth + 2] * 2, math.inf)
        np.fill_diagonal(lengths, 0)
        for layer, sources in enumerate(self.sources, start=1):
            lengths[layer, :layer] = 1 + lengths[list(sources), :layer].min(axis=0)
        return lengths

    def shortest_path(self, layer: int, source: int) -> float:
        """Return one of the lengths of `shortest_paths`: from `layer` back to y_source."""
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

        Raise `UserError` for a link that does not exist, or a layer that would read nothing.
        """
        removed = {(int(layer), int(source)) for layer, source in links}
        absent = sorted(removed - set(self.links))
        if absent:
            raise UserError(f"topology {self.name!r} has no link {absent[0]} (layer, source)")
        kept = (
            tuple(source for source in sources if (layer, source) not in removed)
            for layer, sources in enumerate(self.sources, start=1)
        )
        return Topology(self.name, tuple(kept))


def pattern(function: Callable[..., Sources]) -> Callable[..., Sources]:
    """Register a pattern under the name of its function."""
    PATTERNS[function.__name__] = function
    return function


@pattern
def plain(depth: int) -> Sources:
    """Read the previous output: y_l = F_l(y_{l-1})."""
    return [[layer - 1] for layer in range(1, depth + 2)]


@pattern
def dense(depth: int) -> Sources:
    """Read every earlier output, oldest first (SparseNet, eq. 3; ResNet and DenseNet)."""
    return [range(layer) for layer in range(1, depth + 2)]


@pattern
def sparse(depth: int, *, base: int = 2) -> Sources:
    """Read at the offsets base^0, base^1, base^2, ..., newest first (SparseNet, eq. 2)."""
    check_whole_number("base", base, 2)
    offsets = [base**i for i in range(depth.bit_length() + 1)]
    return [[layer - o for o in offsets if o <= layer] for layer in range(1, depth + 2)]


@pattern
def log_dense(depth: int, *, base: float = 2.0) -> Sources:
    """Read the nearest integers to l - base^i, base real (Log-DenseNet V1, arXiv 1711.00002).

    Base 2 is "sparse"; a smaller base adds offsets between the powers of two.
    """
    check_number("base", base, 1.1, 1e6)
    powers = [base**i for i in range(math.ceil(math.log(depth + 1, base)) + 1)]
    return [
        sorted({layer - round(p) for p in powers if p <= layer}, reverse=True)
        for layer in range(1, depth + 2)
    ]


@pattern
def windowed(depth: int, *, window: int = 4) -> Sources:
    """Read the last `window` outputs, oldest first."""
    check_whole_number("window", window, 1)
    return [range(max(0, layer - window), layer) for layer in range(1, depth + 2)]


@pattern
def fractal(depth: int) -> Sources:
    """Read the join of the columns that meet where the layer starts (FractalNet, Section 3).

    A fractal of C columns (arXiv 1605.07648) has 2^C - 1 layers. Column i has 2^(C-1-i) of them,
    each of span 2^i. All layers that end at one position are joined, and layers that start there
    read the join. Layers are numbered by their end. Other depths chain the largest fractals.
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
    """Read at the offsets 2^i for which 2^i divides l (HarDNet, arXiv 1909.00948).

    The stage's output is every odd layer and the last, oldest first.
    """
    powers = [2**i for i in range(depth.bit_length())]
    layers = [[layer - p for p in powers if layer % p == 0] for layer in range(1, depth + 1)]
    return [*layers, [layer for layer in range(1, depth + 1) if layer % 2 or layer == depth]]


@pattern
def random(depth: int, *, density: float = 0.5, seed: int = 0) -> Sources:
    """Read the previous output, and each other with probability `density`, oldest first.

    The sources of layer l depend on (seed, l) alone, so a deeper stage begins like a shallower one.
    """
    check_number("density", density, 0, 1)
    check_whole_number("seed", seed, 0)
    drawn = [np.random.default_rng([seed, n]).random(n - 1) < density for n in range(1, depth + 2)]
    return [[*np.flatnonzero(chosen), len(chosen)] for chosen in drawn]


@pattern
def custom(depth: int, *, edges: Iterable[Link]) -> Sources:
    """Read what the links `(layer, source)` say; layer depth + 1 is the stage's output."""
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


def make_topology(name: str, depth: int, /, **arguments: Any) -> Topology:
    """Make a topology from the name of a pattern.

    Args:
      name: a key of `PATTERNS`; "log-dense" means "log_dense".
      depth: N, the number of layers, 1..`MAX_DEPTH`.
      **arguments: arguments of the pattern, such as `base` of "sparse".

    Raise `UserError` for an unknown name or argument, or a value that is not allowed.
    """
    check_whole_number("the depth of a stage", depth, 1, MAX_DEPTH)
    name = str(name).replace("-", "_")
    function = choose("topology", PATTERNS, name)
    check_arguments(f"topology {name!r}", function, arguments)
    return Topology(name, tuple(tuple(map(int, s)) for s in function(depth, **arguments)))


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


def stage_topologies(
    name: str | Sequence[str],
    arguments: TopologyArgs,
    depths: Sequence[int],
    *,
    shortcuts: bool = False,
) -> tuple[Topology, ...]:
    """Make the topologies of all stages of a network.

    Args:
      name: a pattern, or one for each stage.
      arguments: its arguments, or one mapping for each stage.
      depths: number of layers of each stage.
      shortcuts: whether the stages are residual: each layer also reads the previous output,
        whatever the pattern. Then no layer is unread, and a stage may have no layers beside the
        block that brings its input to its width.

    Raise `UserError` as `make_topology` and `per_stage`, and for a layer that nothing reads.
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
    for topology in () if shortcuts else topologies:
        if topology.unread:
            raise UserError(
                f"topology {topology.name!r}: nothing reads layer {topology.unread[0]} of"
                f" {topology.depth}, whose parameters would do nothing"
            )
    return topologies
