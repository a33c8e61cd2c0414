"""FractalNet: paths of all lengths, joined by their mean, and no identity among them.

Paper: Larsson et al., "FractalNet: Ultra-Deep Neural Networks without Residuals", ICLR 2017, arXiv
1605.07648.

    f_1 = conv,  f_{C+1} = (f_C after f_C) join conv,  join: the mean

    C = 3, a block of 2^C - 1 = 7 convolutions, at most 4 of them on a path:

        y_0 --+--------- conv ----------+
              +-- conv --+--- conv -----+-- join
              '- conv - conv - join - conv - conv -'
                  (the second column starts from the join of the two left ones, too)

The blocks, of 64, 128, 256, 512 and 512 channels, are a `Stage` each under the topology `fractal`;
behind each of them is a 2x2 max pooling, by which 32x32 images end as 1x1. conv is
conv3x3-dropout-BN-ReLU. The depth counts the convolutions of the longest path, 5 * 2^(C-1).

Where the paper and its code (https://github.com/gustavla/fractalnet) differ, or leave things open:
* The code pools each column before the last join of a block; built is the paper's Fig. 1, where the
  pooling follows the join.
* The 38.6M parameters of the network of 20 layers do not come out, with the widths of both paper
  and code: it has 33.7M. The sizes of Table 3, a quarter as wide, do for all six depths.
* The printed network of 40 layers (22.9M) has columns of 16 to 128 channels, projected where they
  join, and 1x1 in the place of some 3x3 convolutions, of which the paper does not say which.
* Where drop-path would drop all inputs of a join, the paper keeps one; here all are as likely.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from aggnets_jax.arguments import check_number, check_whole_number
from aggnets_jax.connectivity.aggregation import Outputs, check_aggregation, weighted
from aggnets_jax.connectivity.execution import Execution
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import Topology, TopologyArgs, per_stage, stage_topologies
from aggnets_jax.errors import UserError
from aggnets_jax.layers import common
from aggnets_jax.models.registry import Printed, register_family


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
    """In training a join is the mean of those of its inputs that are not dropped (Section 3.1).

    One subnetwork is drawn for a batch: with equal chances either of a single column, the same in
    all of the network, or of inputs dropped one by one, of which each join keeps at least one.
    """

    def __init__(self, rate: float, columns: int, key: jax.Array, block: int) -> None:
        """Takes the drop probability, C, the key of the network's draw and the block's number."""
        of_kind, of_column, of_inputs = jax.random.split(key, 3)
        self._rate = rate
        self._single = jax.random.bernoulli(of_kind)
        self._column = jax.random.randint(of_column, (), 0, columns)
        self._key = jax.random.fold_in(of_inputs, block)
        self._joins: dict[tuple[int, ...], jax.Array] = {}
        self._first_readers: dict[tuple[int, ...], int] = {}

    def __call__(
        self,
        outputs: Outputs,
        sources: Sequence[int],
        layer: int,
        weights: jax.Array | None = None,
    ) -> jax.Array:
        """[batch, height, width, channels] each -> the same shape."""
        sources = tuple(sources)
        if len(sources) == 1:
            return weighted(outputs, sources, weights)[sources[0]]
        if weights is None and sources in self._joins:
            return self._joins[sources]
        # All who read a join read the same of it: what is drawn for the first.
        first = self._first_readers.setdefault(sources, layer)
        drawn = self._weights(len(sources), jax.random.fold_in(self._key, first))
        drawn = drawn.astype(outputs[sources[0]].dtype)
        read = weighted(outputs, sources, weights)
        terms = [drawn[i] * read[source] for i, source in enumerate(sources)]
        self._joins[sources] = sum(terms[1:], terms[0])
        return self._joins[sources]

    def _weights(self, inputs: int, key: jax.Array) -> jax.Array:
        """Of the inputs of a join, from columns 0, 1, ...; float32 [inputs]."""
        of_each, of_one = jax.random.split(key)
        kept = jax.random.bernoulli(of_each, 1 - self._rate, (inputs,))
        one = jax.nn.one_hot(jax.random.randint(of_one, (), 0, inputs), inputs)
        kept = jnp.where(kept.any(), kept, one)
        # What is joined where the column does not end leads nowhere.
        column = jax.nn.one_hot(jnp.minimum(self._column, inputs - 1), inputs)
        return jnp.where(self._single, column, kept / kept.sum())


class FractalNet(nn.Module):
    """Blocks with a max pooling behind each, head.

    Attributes:
      num_classes: size of the logits.
      topologies: one for each block.
      widths: channels of each block.
      aggregation: "mean", "sum" or "concat".
      dropout: of each block, the probability of dropping a channel behind a convolution.
      drop_path: probability of dropping an input of a join, see `DropPath`.
      dtype: in which to compute.
      execution: of the stages.
    """

    num_classes: int
    topologies: tuple[Topology, ...]
    widths: tuple[int, ...]
    aggregation: str = "mean"
    dropout: tuple[float, ...] = (0.0,) * 5
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    execution: Execution = Execution()

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Classifies images; see `SparseNet.__call__` for arguments, results and endpoints."""
        norm = common.batch_norm(train=train, dtype=self.dtype)
        # The "xavier" of Caffe, which looks at the fan-in only.
        conv = partial(common.conv, dtype=self.dtype, kernel_init=nn.initializers.lecun_uniform())
        x = jnp.asarray(images, self.dtype)
        endpoints = {"stem": x}
        key = self.make_rng("dropout") if train and self.drop_path else None
        columns = max(len(topology.output_sources) for topology in self.topologies)

        for i, (topology, width, rate) in enumerate(
            zip(self.topologies, self.widths, self.dropout, strict=True), start=1
        ):
            dropout = partial(common.channel_dropout, rate, train=train)
            unit = partial(FractalConv, width, norm, conv, dropout)
            x = Stage(
                topology,
                unit=lambda layer, name, unit=unit: unit(name=name),
                aggregation=self.aggregation
                if key is None
                else partial(DropPath, self.drop_path, columns, key, i),
                projection=partial(conv, width, 1) if self._adds_input(topology) else None,
                execution=self.execution,
                name=f"stage{i}",
            )(x)
            endpoints[f"stage{i}"] = x
            x = nn.max_pool(x, (2, 2), strides=(2, 2))

        return common.classify(
            x,
            endpoints,
            self.num_classes,
            dtype=self.dtype,
            kernel_init=nn.initializers.lecun_uniform(),
        )

    def _adds_input(self, topology: Topology) -> bool:
        """Whether y_0 is to get the width of the others, because it is added to some of them."""
        joined = any(0 in sources and len(sources) > 1 for sources in topology.sources)
        return joined and self.aggregation in ("sum", "mean")


def fractalnet(
    *,
    num_classes: int,
    depth: int | None = None,
    width: int = 64,
    widths: Sequence[int] | None = None,
    stage_depths: Sequence[int] | None = None,
    topology: str | Sequence[str] = "fractal",
    topology_args: TopologyArgs = None,
    aggregation: str = "mean",
    dropout: float | Sequence[float] = 0.0,
    drop_path: float = 0.0,
    dtype: DTypeLike = jnp.float32,
) -> FractalNet:
    """Builds a network of this file.

    Args:
      num_classes: size of the logits.
      depth: convolutions of the longest path, 5 * 2^(C-1) for C columns; needed without
        `stage_depths`.
      width: channels of the first block, doubled in each later one but the last.
      widths: channels of each block, in the place of `width`.
      stage_depths: convolutions of each block; default 2^C - 1 in each.
      topology: name of a pattern, or one for each block.
      topology_args: arguments of the pattern, or one mapping for each block.
      aggregation: "mean", "sum" or "concat".
      dropout: of channels, or one for each block; (0, 0.1, 0.2, 0.3, 0.4) in the paper.
      drop_path: see `FractalNet`; 0.15 in the paper. For the topology "fractal" and means only.
      dtype: in which to compute.

    Raises:
      UserError: for numbers that fit no network.
    """
    check_whole_number("width", width, 1)
    check_aggregation(aggregation)
    blocks = 5 if widths is None else len(widths)
    check_whole_number("the number of blocks", blocks, 1)
    if stage_depths is None:
        stage_depths = (_convolutions(depth, blocks),) * blocks
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
    check_number("drop_path", drop_path, 0, 0.99)
    if drop_path and ({t.name for t in topologies}, aggregation) != ({"fractal"}, "mean"):
        raise UserError(
            "drop_path needs columns: the topology 'fractal' and the aggregation 'mean'"
        )
    return FractalNet(
        num_classes,
        topologies,
        widths,
        aggregation=aggregation,
        dropout=rates,
        drop_path=drop_path,
        dtype=dtype,
    )


def _convolutions(depth: int | None, blocks: int) -> int:
    """Convolutions of a block, 2^C - 1, from the depth of the network."""
    if depth is None:
        raise UserError("a network needs the argument 'depth', or 'stage_depths'")
    path, rest = divmod(depth, blocks)
    if path < 1 or rest or path & (path - 1):
        allowed = [blocks * 2**i for i in range(8)]
        nearest = min(allowed, key=lambda d: abs(d - depth))
        raise UserError(
            f"depth {depth} fits no network of {blocks} blocks; allowed: {blocks} times a power"
            f" of 2, nearest {nearest}"
        )
    return 2 * path - 1


register_family(
    "fractalnet",
    fractalnet,
    pattern=r"fractalnet(?P<depth>\d+)(?:_w(?P<width>\d+))?",
    paper="FractalNet: Ultra-Deep Neural Networks without Residuals, ICLR 2017, arXiv 1605.07648",
    printed={
        "fractalnet20": Printed(
            "Table 1",
            "38.6M",
            {"cifar10": 5.22, "cifar100": 23.30},
            note="the size does not come out: 33.7M",
        ),
        "fractalnet40": Printed(
            "Table 1",
            "22.9M",
            note="printed with thinner columns and 1x1 convolutions that are not specified",
        ),
        **{
            f"fractalnet{depth}_w16": Printed("Table 3", params)
            for depth, params in [
                (5, "0.3M"),
                (10, "0.8M"),
                (20, "2.1M"),
                (40, "4.8M"),
                (80, "10.2M"),
                (160, "21.1M"),
            ]
        },
    },
)
