"""AOGNet: blocks that derive their output by a grammar; the words are parts of the channels.

Paper: Li et al., "AOGNets: Compositional Grammatical Architectures for Deep Learning", CVPR 2019,
arXiv 1711.05847.

    y_l = ReLU(F_l(input_l) + residual_l),   F = 1x1(b)-BN-ReLU-3x3(b)-BN-ReLU-1x1-BN

    T nodes read words of the block's input, AND nodes concatenate and OR nodes add other nodes

    x [w0 w1] --+-- T(w0 w1) ----------------.
                +-- T(w0) -- O --.           (+)-- O -- BN-ReLU -- y
                '-- T(w1) -- O --+-- A ------'

The graphs are the pruned ones of the released code, written as in `connectivity/and_or.py`. b is a
quarter of the output, at least 4; a residual of another width is projected by 1x1-BN. Widths grow
linearly within a stage. The networks follow the code's second version (12.26M, 40.15M parameters).
HCGNet's rows (11.9M, 40.3M, and 24.8M for CIFAR) are of an unpublished setting.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from flax import linen as nn

from aggnets_jax.arguments import check_number, check_whole_number
from aggnets_jax.connectivity.aggregation import check_aggregation
from aggnets_jax.connectivity.and_or import AndOr, AndOrGraph, read_graph, word_bounds
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import (
    Topology,
    TopologyArgs,
    TopologyLike,
    per_stage,
    stage_topologies,
)
from aggnets_jax.errors import UserError
from aggnets_jax.layers import common
from aggnets_jax.layers.pooling import avg_pool, max_pool
from aggnets_jax.layers.residual_blocks import Projection
from aggnets_jax.models.network import Endpoints, Network
from aggnets_jax.models.registry import IMAGENET, register_family

GRAPHS = {
    "two_words": read_graph(
        "two_words", "t1[0-1] t5[0] o3=(5) t6[1] o4=(6)+(3*) a2=(3,4) o0=(1,2)"
    ),
    "four_words": read_graph(
        "four_words",
        "t1[0-3] t8[0] o4=(8) t9[1-3] t13[2-3] t19[2] t18[1] o15=(18)+(4*) o16=(19)+(15) t20[3]"
        " o17=(20)+(16*) a14=(16,17) t11[0-1] a12=(4x.5,15x.5)+(14) o6=(11,12) o7=(13,14)+(6*)"
        " a10=(7x.5,15x.5) o5=(9,10) a2=(4x.5,5) a3=(6,7x.5)+(2*) o0=(1,2,3)",
    ),
    "four_words_last": read_graph(
        "four_words_last",
        "t1[0-3] t8[0-2] t11[0-1] t19[0] o16=(19) t20[1] o17=(20)+(16*) t10[3] t18[2]"
        " o15=(18)+(17) o5=(10)+(15*) a14=(5x.5,15x.5) a12=(16,17)+(14) o6=(11,12)"
        " a9=(6x.5,15x.5) o4=(8,9) t13[2-3] o7=(13,14)+(6*) a3=(6x.5,7) a2=(4,5x.5)+(3*)"
        " o0=(1,2,3)",
    ),
}
STAGE_GRAPHS = ("two_words", "two_words", "four_words", "four_words_last")


class AOGNode(nn.Module):
    """The unit: ReLU(1x1(b)-BN-ReLU-3x3(b)-BN-ReLU-1x1(features)-BN of the input + residual).

    Attributes:
      features: channels of the output; None: as many as the input has.
      norm: makes batch normalisations.
      conv: makes convolutions.
      dropout: makes the dropout of the branch's channels.
    """

    features: int | None
    norm: common.Norm
    conv: common.Conv
    dropout: Any

    @nn.compact
    def __call__(self, pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        """Map input and residual, each [batch, height, width, channels]."""
        x, residual = pair
        features = self.features or x.shape[-1]
        inner = max(4, (features + 2) // 4)
        x = nn.relu(self.norm(name="norm1")(self.conv(inner, 1, name="conv1")(x)))
        x = nn.relu(self.norm(name="norm2")(self.conv(inner, 3, name="conv2")(x)))
        x = self.dropout()(self.norm(name="norm3")(self.conv(features, 1, name="conv3")(x)))
        if residual.shape[-1] != features:
            residual = Projection(features, 1, self.norm, self.conv, name="projection")(residual)
        return nn.relu(x + residual)


class AOGNet(Network):
    """Stem, stages of and-or blocks (the later ones halve the resolution first), head.

    Attributes:
      block_topologies: topology of the blocks of each stage.
      stem_features: channels of the stem.
      widths: channels of each stage.
      blocks: blocks of each stage.
      graphs: and-or graph of each stage's blocks, or None for sums of whole outputs.
      aggregation: "sum" or "mean" of the children of OR nodes.
      dropout: probability of dropping a channel of a node in the last two stages, 0.1 in the code.
    """

    block_topologies: tuple[Topology, ...]
    stem_features: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    graphs: tuple[AndOrGraph, ...] | None
    aggregation: str = "sum"
    dropout: float = 0.0

    @property
    def topologies(self) -> tuple[Topology, ...]:
        """The topology of each block."""
        pairs = zip(self.block_topologies, self.blocks, strict=True)
        return tuple(topology for topology, blocks in pairs for _ in range(blocks))

    def _features(
        self, x: jax.Array, endpoints: Endpoints, norm: common.Norm, conv: common.Conv, train: bool
    ) -> jax.Array:
        x = common.deep_stem(x, self.stem_features, norm=norm, conv=conv)
        x = max_pool(x, (2, 2), strides=(2, 2))
        endpoints["stem"] = x
        for i, width in enumerate(self.widths, start=1):
            started = x.shape[-1]
            if i > 1:
                x = conv(started, 1, name=f"transition{i - 1}_conv")(x)
                x = nn.relu(norm(name=f"transition{i - 1}_norm")(x))
                x = avg_pool(x, (2, 2), strides=(2, 2))
            rate = self.dropout if i > len(self.widths) - 2 else 0.0
            dropout = partial(common.channel_dropout, rate, train=train)
            graph = self.graphs[i - 1] if self.graphs else None
            aggregation = partial(AndOr, graph, self.aggregation) if graph else self.aggregation
            words = graph.words if graph else 1
            for b, features in enumerate(_growing(started, width, self.blocks[i - 1], words), 1):
                x = Stage(
                    self.block_topologies[i - 1],
                    unit=partial(self._node, graph, features, norm, conv, dropout),
                    aggregation=aggregation,
                    execution=self.execution,
                    name=f"stage{i}_block{b}",
                )(x)
                x = nn.relu(norm(name=f"stage{i}_block{b}_norm")(x))
            endpoints[f"stage{i}"] = x
        return x

    @staticmethod
    def _node(
        graph: AndOrGraph | None,
        features: int,
        norm: Any,
        conv: Any,
        dropout: Any,
        layer: int,
        name: str,
    ) -> Any:
        """Make a node: a T node has the width of its words in the output of the block."""
        if graph is None:
            node = AOGNode(features, norm, conv, dropout, name=name)
            return lambda x: node((x, x))
        words = graph.nodes[layer - 1].words
        if words:
            bounds = word_bounds(features, graph.words)
            features = bounds[words[1] + 1] - bounds[words[0]]
        return AOGNode(features if words else None, norm, conv, dropout, name=name)


def _growing(started: int, width: int, blocks: int, words: int) -> list[int]:
    """Return the channels of a stage's blocks, which grow by equal steps and end at `width`."""
    step = (width - started) // blocks
    # To the nearest multiple of the words, down on a tie.
    step = -(-(2 * step - words) // (2 * words)) * words
    return [*(started + step * block for block in range(1, blocks)), width]


def aognet(
    *,
    size: str | None = None,
    stem_features: int | None = None,
    widths: Sequence[int] | None = None,
    blocks: Sequence[int] | None = None,
    topology: TopologyLike | None = None,
    topology_args: TopologyArgs = None,
    **fields: Any,
) -> AOGNet:
    """Build an `AOGNet`.

    Args:
      size: "12m" or "40m", the default of `stem_features`, `widths` and `blocks`.
      stem_features: channels of the stem, an even number.
      widths: channels of each of four stages.
      blocks: blocks of each stage.
      topology: pattern of a block's 7 nodes in the place of the and-or graphs, or one for each
        stage; then nodes read sums of whole outputs.
      topology_args: arguments of the pattern, or one mapping for each stage.
      **fields: further fields of `AOGNet`.

    Raises:
      UserError: for numbers that fit no network.
    """
    if size is not None and size not in SIZES:
        raise UserError(f"no network of size {size!r}; allowed: {', '.join(SIZES)}")
    defaults = SIZES[size or "12m"]
    stem_features = defaults[0] if stem_features is None else stem_features
    check_whole_number("stem_features", stem_features, 2)
    widths = per_stage("widths", defaults[1] if widths is None else widths, len(STAGE_GRAPHS))
    blocks = per_stage("blocks", defaults[2] if blocks is None else blocks, len(STAGE_GRAPHS))
    for name, numbers in (("widths", widths), ("blocks", blocks)):
        for number in numbers:
            check_whole_number(name, number, 1)
    if list(widths) != sorted(widths) or widths[0] < stem_features or stem_features < 4:
        raise UserError(f"widths must be at least 4 and not fall, got {stem_features}, {widths}")
    graphs = None
    if topology is None:
        graphs = tuple(GRAPHS[name] for name in STAGE_GRAPHS)
        topologies = tuple(graph.topology for graph in graphs)
    else:
        topologies = stage_topologies(topology, topology_args, [7] * len(widths))
    network = AOGNet(
        block_topologies=topologies,
        stem_features=stem_features,
        widths=widths,
        blocks=blocks,
        graphs=graphs,
        **fields,
    )
    check_aggregation(network.aggregation, ("sum", "mean"), "a graph says where nodes concatenate")
    check_number("dropout", network.dropout, 0, 0.99)
    return network


# Stem, channels and blocks of the stages.
SIZES = {
    "12m": (32, (128, 256, 512, 824), (2, 2, 2, 1)),
    "40m": (56, (224, 448, 896, 1400), (2, 2, 3, 1)),
}

register_family(
    "aognet",
    aognet,
    pattern=r"aognet_(?P<size>12m|40m)",
    paper="AOGNets: Compositional Grammatical Architectures for Deep Learning, CVPR 2019,"
    " arXiv 1711.05847",
    **IMAGENET,
)
