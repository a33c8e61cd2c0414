"""FractalNet: paths of many lengths, joined by their mean, without identity shortcuts.

Paper: Larsson et al., "FractalNet: Ultra-Deep Neural Networks without Residuals", ICLR 2017, arXiv
1605.07648.

    f_1 = conv,  f_{C+1} = (f_C after f_C) join conv,  join: the mean

    C = 3, a block of 2^C - 1 = 7 convolutions, at most 4 of them on a path:

        y_0 --+--------- conv ----------+
              +-- conv --+--- conv -----+-- join
              '- conv - conv - join - conv - conv -'
                  (the second column starts from the join of the two left ones, too)

Each block, of 64, 128, 256, 512 or 512 channels, is a `Stage` under the topology `fractal`. A 2x2
max pooling follows each block, so 32x32 images end as 1x1. conv is conv3x3-dropout-BN-ReLU. The
depth is the number of convolutions on the longest path, 5 * 2^(C-1).

Where the paper and its code (https://github.com/gustavla/fractalnet) differ, or leave things open:
* The code pools each column before the last join of a block. This file follows the paper's Fig. 1,
  where the pooling follows the join.
* With the widths of paper and code, the network of 20 layers has 33.7M parameters instead of the
  printed 38.6M. The sizes of Table 3, at a quarter of the width, agree at all six depths. Tried
  without success: biases, normalisations of four numbers per channel and 100 classes (33.7M to
  33.8M); a 1x1 projection of each joined column or of the concatenated columns (35.6M to 36.8M);
  one more 3x3 convolution in each block (37.6M or 39.2M, before or after the width changes) or two
  after the last block (38.4M); two or four columns; other widths in steps of 16, some of which fit,
  but by no rule. Eight more 1x1 convolutions in each block would fit, but no source has them.
* The printed network of 40 layers (22.9M) has columns of 16 to 128 channels, projected where they
  join, and 1x1 convolutions in the place of some 3x3 ones; the paper does not say which.
* If drop-path would drop all inputs of a join, the paper keeps one; here all are equally likely.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from aggnets_jax.arguments import check_number, check_whole_number, known_depth
from aggnets_jax.connectivity.aggregation import Outputs, check_aggregation, weighted
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
from aggnets_jax.layers.pooling import max_pool
from aggnets_jax.models.network import Endpoints, Network
from aggnets_jax.models.registry import register_family


class FractalConv(nn.Module):
    """The unit: conv3x3-dropout-BN-ReLU.

    Attributes:
      features: channels of the output.
      norm: makes batch normalisations.
      conv: makes convolutions.
      dropout: makes the channel dropout.
    """

    features: int
    norm: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]
    dropout: Callable[[], nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> [batch, height, width, features]."""
        x = self.dropout()(self.conv(self.features, 3, name="conv")(x))
        return nn.relu(self.norm(name="norm")(x))


class DropPath:
    """A join in training: the mean of the inputs that are not dropped (Section 3.1).

    One subnetwork is drawn for a batch. With equal chances it is a single column, the same in the
    whole network, or inputs are dropped one by one, and each join keeps at least one input.
    """

    def __init__(self, rate: float, columns: int, key: jax.Array, block: int) -> None:
        """Take the drop probability, C, the key of the network's draw and the block's number."""
        kind_key, column_key, inputs_key = jax.random.split(key, 3)
        self._rate = rate
        self._single = jax.random.bernoulli(kind_key)
        self._column = jax.random.randint(column_key, (), 0, columns)
        self._key = jax.random.fold_in(inputs_key, block)
        self._joins: dict[tuple[int, ...], jax.Array] = {}
        self._first_readers: dict[tuple[int, ...], int] = {}

    def __call__(
        self, outputs: Outputs, sources: Sequence[int], layer: int, weights: jax.Array | None = None
    ) -> jax.Array:
        """[batch, height, width, channels] each -> the same shape."""
        sources = tuple(sources)
        if len(sources) == 1:
            return weighted(outputs, sources, weights)[sources[0]]
        if weights is None and sources in self._joins:
            return self._joins[sources]
        # All readers of a join get the same draw, the draw for the first of them.
        first = self._first_readers.setdefault(sources, layer)
        drawn = self._weights(len(sources), jax.random.fold_in(self._key, first))
        drawn = drawn.astype(outputs[sources[0]].dtype)
        read = weighted(outputs, sources, weights)
        terms = [drawn[i] * read[source] for i, source in enumerate(sources)]
        self._joins[sources] = sum(terms[1:], terms[0])
        return self._joins[sources]

    def _weights(self, inputs: int, key: jax.Array) -> jax.Array:
        """Return the weights of a join's inputs from columns 0, 1, ...; float32 [inputs]."""
        each_key, one_key = jax.random.split(key)
        kept = jax.random.bernoulli(each_key, 1 - self._rate, (inputs,))
        one = jax.nn.one_hot(jax.random.randint(one_key, (), 0, inputs), inputs)
        kept = jnp.where(kept.any(), kept, one)
        # The output of a join where the column does not end is not read.
        column = jax.nn.one_hot(jnp.minimum(self._column, inputs - 1), inputs)
        return jnp.where(self._single, column, kept / kept.sum())


class FractalNet(Network):
    """Blocks with a max pooling after each, head.

    Attributes:
      topologies: topology of each block.
      widths: channels of each block.
      aggregation: "mean", "sum" or "concat".
      dropout: probability of dropping a channel after a convolution, of each block.
      drop_path: probability of dropping an input of a join, 0.15 in the paper. It needs the
        topology "fractal" and means.
    """

    topologies: tuple[Topology, ...]
    widths: tuple[int, ...]
    dropout: tuple[float, ...]
    aggregation: str = "mean"
    drop_path: float = 0.0

    def _features(
        self, x: jax.Array, endpoints: Endpoints, norm: common.Norm, conv: common.Conv, train: bool
    ) -> jax.Array:
        # The "xavier" of Caffe, which looks at the fan-in only.
        conv = partial(conv, kernel_init=nn.initializers.lecun_uniform())
        endpoints["stem"] = x
        key = self.make_rng("dropout") if train and self.drop_path else None
        columns = max(len(topology.output_sources) for topology in self.topologies)

        for i, (topology, width, rate) in enumerate(
            zip(self.topologies, self.widths, self.dropout, strict=True), start=1
        ):
            dropout = partial(common.channel_dropout, rate, train=train)
            x = Stage(
                topology,
                unit=partial(FractalConv, width, norm, conv, dropout),
                aggregation=self.aggregation
                if key is None
                else partial(DropPath, self.drop_path, columns, key, i),
                projection=partial(conv, width, 1) if self._adds_input(topology) else None,
                execution=self.execution,
                name=f"stage{i}",
            )(x)
            endpoints[f"stage{i}"] = x
            x = max_pool(x, (2, 2), strides=(2, 2))
        return x

    def _head(self, x: jax.Array, train: bool) -> dict[str, Any]:
        return {"kernel_init": nn.initializers.lecun_uniform()}

    def _adds_input(self, topology: Topology) -> bool:
        """Return whether y_0 is added to other outputs, and so must have their width."""
        joined = any(0 in sources and len(sources) > 1 for sources in topology.sources)
        return joined and self.aggregation in ("sum", "mean")


def fractalnet(
    *,
    depth: int | None = None,
    width: int = 64,
    widths: Sequence[int] | None = None,
    stage_depths: Sequence[int] | None = None,
    topology: TopologyLike = "fractal",
    topology_args: TopologyArgs = None,
    dropout: float | Sequence[float] = 0.0,
    **fields: Any,
) -> FractalNet:
    """Build a `FractalNet`.

    Args:
      depth: convolutions of the longest path, 5 * 2^(C-1) for C columns; needed without
        `stage_depths`.
      width: channels of the first block, doubled in each later one but the last.
      widths: channels of each block, in the place of `width`.
      stage_depths: convolutions of each block; default 2^C - 1 in each.
      topology: name of a pattern, or one for each block.
      topology_args: arguments of the pattern, or one mapping for each block.
      dropout: probability of dropping a channel, or one for each block; (0, 0.1, 0.2, 0.3, 0.4) in
        the paper.
      **fields: further fields of `FractalNet`.

    Raises:
      UserError: for numbers that fit no network.
    """
    check_whole_number("width", width, 1)
    blocks = 5 if widths is None else len(widths)
    check_whole_number("the number of blocks", blocks, 1)
    if stage_depths is None:
        convolutions = {blocks * 2**i: 2 ** (i + 1) - 1 for i in range(12)}
        stage_depths = (known_depth(depth, convolutions),) * blocks
    blocks = len(stage_depths)
    if widths is None:
        widths = [width * 2 ** min(i, max(0, blocks - 2)) for i in range(blocks)]
    widths = per_stage("widths", tuple(widths), blocks)
    for features in widths:
        check_whole_number("widths", features, 1)
    rates = per_stage("dropout", dropout, blocks)
    for rate in rates:
        check_number("dropout", rate, 0, 0.99)
    topologies = stage_topologies(topology, topology_args, stage_depths)
    network = FractalNet(topologies=topologies, widths=widths, dropout=rates, **fields)
    check_aggregation(network.aggregation)
    check_number("drop_path", network.drop_path, 0, 0.99)
    patterns = {topology.name for topology in topologies}
    if network.drop_path and (patterns, network.aggregation) != ({"fractal"}, "mean"):
        raise UserError(
            "drop_path needs columns: the topology 'fractal' and the aggregation 'mean'"
        )
    return network


register_family(
    "fractalnet",
    fractalnet,
    pattern=r"fractalnet(?P<depth>\d+)(?:_w(?P<width>\d+))?",
    paper="FractalNet: Ultra-Deep Neural Networks without Residuals, ICLR 2017, arXiv 1605.07648",
)
