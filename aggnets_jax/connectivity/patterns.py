"""Patterns: functions that list the outputs that each layer of a stage reads, at any depth.

A pattern returns the sources of the layers 1..depth + 1, in the order in which they are aggregated;
the last entry has the outputs that make up the stage's output. A new pattern is a function:

    from aggnets_jax import pattern

    @pattern
    def skip_two(depth: int, *, skip: int = 2):
        '''Read the previous output and the one `skip` before it.'''
        return [sorted({layer - 1, max(0, layer - 1 - skip)}) for layer in range(1, depth + 2)]

Then `make_topology("skip_two", 12, skip=3)` makes a topology, and networks and configs know the
pattern by its name.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from aggnets_jax.arguments import check_number, check_whole_number
from aggnets_jax.errors import UserError

Link = tuple[int, int]
"""`(layer, source)`: the layer reads the output y_source."""

Sources = Sequence[Sequence[int]]
"""Sources of the layers 1..depth + 1: the indices of the outputs that each reads, in order."""

Pattern = Callable[..., Sources]

PATTERNS: dict[str, Pattern] = {}


def pattern(function: Pattern) -> Pattern:
    """Register a pattern under the name of its function, also for the names in configs.

    A module that is imported again replaces its patterns. Raise `UserError` for the name of one of
    the patterns here, and for a function without a name.
    """
    name = getattr(function, "__name__", "")
    if not name.isidentifier():
        raise UserError("a pattern needs a name: write it as a function, with def")
    if function.__module__ != __name__ and name in PATTERNS and not is_own(name):
        raise UserError(f"there is a pattern {name!r} already; give yours another name")
    PATTERNS[name] = function
    return function


def is_own(name: str) -> bool:
    """Return whether a registered pattern is a user's; its code may be missing elsewhere."""
    return PATTERNS[name].__module__ != __name__


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
def log_dense_v2(depth: int, *, stages: int = 3) -> Sources:
    """Read the offsets 2^i within a stage, and all before it (Log-DenseNet V2, arXiv 1711.00002).

    The layers are in `stages` equally deep stages; a depth that they do not divide is one stage.
    The output consists of the last layer and its sources. Sources are in order.
    """
    check_whole_number("stages", stages, 1)
    each = depth if depth % stages else depth // stages
    sources = []
    for layer in range(1, depth + 1):
        first = (layer - 1) // each * each
        offsets = [2**i for i in range(depth.bit_length())]
        near = sorted(layer - o for o in offsets if layer - o > first)
        sources.append([*range(first + 1), *near])
    return [*sources, [*sources[-1], depth]]


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

    The sources of layer l depend only on (seed, l), so a deeper stage begins like a shallower one.
    """
    check_number("density", density, 0, 1)
    check_whole_number("seed", seed, 0)
    drawn = [np.random.default_rng([seed, n]).random(n - 1) < density for n in range(1, depth + 2)]
    return [[*np.flatnonzero(chosen), len(chosen)] for chosen in drawn]


@pattern
def custom(depth: int, *, edges: Iterable[Link]) -> Sources:
    """Read the outputs of the links `(layer, source)`; layer depth + 1 is the stage's output."""
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
