"""And-or graphs as topologies: each layer derives a part of a sentence from the parts it reads.

Li et al., "AOGNets: Compositional Grammatical Architectures for Deep Learning", CVPR 2019, arXiv
1711.05847. A block's channels are cut into words. A terminal node (T) reads some words of the
input; an AND node concatenates its children; an OR node adds them. The notation of a graph is a
list of nodes in the order of computation, the last of which is the root:

    t5[0]               T node 5 of word 0; t1[0-1] of the words 0 to 1
    a2=(3,4)            AND node 2 of the nodes 3 and 4
    o4=(6)+(3*)         OR node 4 of the node 6, with the lateral child 3
    a3=(6,7x.5)         child 7 is scaled by .5 in the residual, but not in the input

A node computes ReLU(F(input) + residual). Laterals are added to the input and, without a star, to
the residual, too.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from aggnets_jax.connectivity.aggregation import Outputs, make_aggregation
from aggnets_jax.connectivity.topology import Topology


class Node(NamedTuple):
    """A layer of an and-or graph.

    Attributes:
      kind: "t", "a" or "o".
      label: its number in the notation, which names it elsewhere.
      words: first and last word of a T node.
      scales: the scales of the children in the residual.
      starred: whether each lateral child is left out of the residual.
    """

    kind: str
    label: int
    words: tuple[int, int] | None = None
    scales: tuple[float, ...] = ()
    starred: tuple[bool, ...] = ()


@dataclasses.dataclass(frozen=True)
class AndOrGraph:
    """Nodes, their topology (nodes are its layers), and the number of words."""

    nodes: tuple[Node, ...]
    topology: Topology
    words: int


def read_graph(name: str, text: str) -> AndOrGraph:
    """Return the graph of a text in the notation above."""
    nodes: list[Node] = []
    sources: list[tuple[int, ...]] = []
    layer_of: dict[str, int] = {}
    for term in text.split():
        kind, label, first, last, children, laterals = re.fullmatch(
            r"([tao])(\d+)(?:\[(\d+)(?:-(\d+))?\]|=\(([^)]*)\)(?:\+\(([^)]*)\))?)", term
        ).groups()
        if kind == "t":
            nodes.append(Node(kind, int(label), (int(first), int(last or first))))
            sources.append((0,))
        else:
            pairs = [child.partition("x")[::2] for child in children.split(",")]
            lateral = laterals.split(",") if laterals else []
            scales = tuple(float(scale or 1) for _, scale in pairs)
            starred = tuple(each.endswith("*") for each in lateral)
            nodes.append(Node(kind, int(label), None, scales, starred))
            read = [*(child for child, _ in pairs), *(each.rstrip("*") for each in lateral)]
            sources.append(tuple(layer_of[child] for child in read))
        layer_of[label] = len(nodes)
    words = 1 + max(node.words[1] for node in nodes if node.words)
    return AndOrGraph(tuple(nodes), Topology(name, (*sources, (len(nodes),))), words)


def word_bounds(channels: int, words: int) -> list[int]:
    """Return where each word begins, and the end: equal slices, the first ones a channel larger."""
    size, rest = divmod(channels, words)
    return [word * size + min(word, rest) for word in range(words + 1)]


class AndOr:
    """The aggregation of an and-or graph: the pair of a node's input and residual."""

    def __init__(self, graph: AndOrGraph, aggregation: str) -> None:
        """Take the graph, and the aggregation of OR nodes."""
        self.graph = graph
        self.aggregation = aggregation

    def __call__(
        self, outputs: Outputs, sources: Sequence[int], layer: int, weights: Any = None
    ) -> tuple[jax.Array, jax.Array] | jax.Array:
        """Return input and residual [..., channels]; for the output the root itself."""
        read = [outputs[source] for source in sources]
        if weights is not None:
            read = [w.astype(x.dtype) * x for w, x in zip(weights, read, strict=True)]
        if layer > len(self.graph.nodes):
            return read[0]
        node = self.graph.nodes[layer - 1]
        if node.words:
            bounds = word_bounds(read[0].shape[-1], self.graph.words)
            part = read[0][..., bounds[node.words[0]] : bounds[node.words[1] + 1]]
            return part, part
        children, laterals = read[: len(node.scales)], read[len(node.scales) :]
        scaled = [x * s if s != 1 else x for x, s in zip(children, node.scales, strict=True)]
        kept = [x for x, star in zip(laterals, node.starred, strict=True) if not star]
        return self._join(node, children, laterals), self._join(node, scaled, kept)

    def _join(
        self, node: Node, children: Sequence[jax.Array], laterals: Sequence[jax.Array]
    ) -> jax.Array:
        if node.kind == "a":
            return sum(laterals, jnp.concatenate(children, axis=-1))
        aggregate = make_aggregation(self.aggregation)
        return sum(laterals, aggregate(children, range(len(children)), 0))
