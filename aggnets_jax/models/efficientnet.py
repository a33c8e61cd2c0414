r"""EfficientNet-B0, and Micro-Dense-EfficientNet, which exchanges three of its blocks.

Paper: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
ICML 2019, arXiv 1905.11946 (Table 1).

    MBConv:  F(x) = project(SE(depthwise(expand(x)))),   y_l = y_{l-1} + F_l(y_{l-1})

    x --> 1x1 (6c) --> kxk depthwise --> squeeze-excite --> 1x1 (c) --+--> y
      \_______________________________________________________________/

expand, depthwise and project are convolution-BN; swish follows the first two. A stage's first
MBConv, which changes width or resolution, has no shortcut; it is `stage{i}_opening`. The others are
the layers of `stage{i}`. The hidden layer of squeeze-excite has a quarter of the block's input
width, not of the expanded width.

Micro-Dense-EfficientNet (Zhu et al., "When Residual Learning Meets Dense Aggregation: Rethinking
the Aggregation of Deep Neural Networks", arXiv 2004.08796, Table 5) has micro-dense blocks in the
place of MBConvs 8, 9 and 10. The 9th opens a stage; like all micro-dense blocks it has a shortcut,
padded with zeros. Their compression is not given; 0.35 keeps the size.

Where this network differs from the paper's: the original code pads as TensorFlow's "SAME" does and
normalises with eps 1e-3 and momentum 0.99. Here convolutions pad symmetrically and normalisation is
the package's. torchvision does the same, so its weights fit.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from aggnets_jax.arguments import check_number, check_whole_number
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import Topology, TopologyArgs, TopologyLike, stage_topologies
from aggnets_jax.errors import UserError, unknown
from aggnets_jax.layers import common
from aggnets_jax.layers.mb_conv import MBConv
from aggnets_jax.layers.micro_dense_blocks import MicroDense, micro_dense_block
from aggnets_jax.layers.pyramid_blocks import average_halves, joined
from aggnets_jax.models.network import Endpoints, Network
from aggnets_jax.models.pyramidnet import check_shortcut_aggregation
from aggnets_jax.models.registry import IMAGENET, register_family


class MBConvStage(NamedTuple):
    """A row of Table 1: equal MBConvs, but only the first has the stride."""

    expansion: int
    kernel_size: int
    stride: int
    features: int
    blocks: int


B0_STAGES = (
    MBConvStage(1, 3, 1, 16, 1),
    MBConvStage(6, 3, 2, 24, 2),
    MBConvStage(6, 5, 2, 40, 2),
    MBConvStage(6, 3, 2, 80, 3),
    MBConvStage(6, 5, 1, 112, 3),
    MBConvStage(6, 5, 2, 192, 4),
    MBConvStage(6, 3, 1, 320, 1),
)
PADDINGS = ("symmetric", "same")
BLOCKS = sum(row.blocks for row in B0_STAGES)


class EfficientNet(Network):
    """Stem conv3x3/2(32), stages of `MBConv`, head conv1x1(1280), all followed by BN-swish.

    Attributes:
      shortcut_topologies: topology of each stage's blocks after its opening.
      replaced: numbers, from 1, of the blocks that `replacement` makes.
      replacement: makes micro-dense blocks.
      aggregation: aggregation of the outputs that a shortcut reads, "sum" or "mean".
      padding: "symmetric", or "same" as in TensorFlow, for weights that were trained there; it
        differs where the stride is 2.
      dropout: probability of dropping a feature before the classifier, 0.2 in the paper.
      drop_connect: times (n - 1) / 16 the probability of dropping an image's branch in block n, 0.2
        in the paper.
    """

    shortcut_topologies: tuple[Topology, ...]
    replaced: tuple[int, ...]
    replacement: MicroDense | None
    aggregation: str = "sum"
    padding: str = "symmetric"
    dropout: float = 0.0
    drop_connect: float = 0.0

    @property
    def topologies(self) -> tuple[Topology, ...]:
        """The topologies of the stages, then the topologies within the micro-dense blocks."""
        within = self.replacement.topologies if self.replacement else ()
        return self.shortcut_topologies + within * len(self.replaced)

    def _features(
        self, x: jax.Array, endpoints: Endpoints, norm: common.Norm, conv: common.Conv, train: bool
    ) -> jax.Array:
        conv = partial(conv, padding="SAME" if self.padding == "same" else None)
        x = conv(32, 3, stride=2, name="stem_conv")(x)
        x = endpoints["stem"] = nn.swish(norm(name="stem_norm")(x))

        def block(row: MBConvStage, number: int, **arguments: Any) -> nn.Module:
            if number in self.replaced:
                return self.replacement(row.features, norm=norm, conv=conv, **arguments)
            mbconv = partial(MBConv, row.features, row.expansion, row.kernel_size)
            return mbconv(norm=norm, conv=conv, **arguments)

        def with_shortcut(number: int, branch: nn.Module) -> Callable[..., jax.Array]:
            rate = self.drop_connect * (number - 1) / BLOCKS
            # The random numbers depend on the name, which must differ between blocks.
            drop = common.branch_dropout(rate, train=train, name=f"branch_dropout{number}")
            return joined(lambda x: drop(branch(x)))

        first = 1
        stages = zip(B0_STAGES, self.shortcut_topologies, strict=True)
        for i, (row, topology) in enumerate(stages, 1):
            branch = partial(block, row)
            opening = branch(first, stride=row.stride, name=f"stage{i}_opening")
            if first in self.replaced:
                shortcut = x if row.stride == 1 else average_halves(x)
                x = with_shortcut(first, opening)(x, shortcut)
            else:
                x = opening(x)
            x = Stage(
                topology,
                unit=lambda layer, name, branch=branch, first=first: with_shortcut(
                    first + layer, branch(first + layer, stride=1, name=name)
                ),
                aggregation=self.aggregation,
                shortcuts=True,
                execution=self.execution,
                name=f"stage{i}",
            )(x)
            endpoints[f"stage{i}"] = x
            first += row.blocks

        return nn.swish(norm(name="head_norm")(conv(1280, 1, name="head_conv")(x)))

    def _head(self, x: jax.Array, train: bool) -> dict[str, Any]:
        return {"dropout": nn.Dropout(self.dropout, deterministic=not train)}


def efficientnet_b0(
    *, topology: TopologyLike = "plain", topology_args: TopologyArgs = None, **fields: Any
) -> EfficientNet:
    """Build EfficientNet-B0.

    Args:
      topology: pattern of the outputs that are added to a block, or one for each stage; "plain" is
        the identity shortcut.
      topology_args: arguments of the pattern, or one mapping for each stage.
      **fields: further fields of `EfficientNet`.

    Raises:
      UserError: for numbers that fit no network.
    """
    return _network((), None, topology, topology_args, **fields)


def micro_dense_efficientnet_b0(
    *,
    replaced: Sequence[int] = (8, 9, 10),
    num_layers: int = 3,
    compression: float = 0.35,
    shortcut_topology: TopologyLike = "plain",
    shortcut_topology_args: TopologyArgs = None,
    dropout: float = 0.0,
    drop_connect: float = 0.0,
    dtype: DTypeLike = jnp.float32,
    num_classes: int,
    **fields: Annotated[Any, micro_dense_block],
) -> EfficientNet:
    """Build Micro-Dense-EfficientNet.

    Args:
      replaced: numbers of the micro-dense blocks, 2 to 16.
      num_layers: dense layers in a micro-dense block.
      compression: width to which a block first brings its input, as a part of the input's.
      shortcut_topology: pattern of the outputs that are added to a block, or one for each stage.
      shortcut_topology_args: arguments of the pattern, or one mapping for each stage.
      dropout: probability of dropping a feature before the classifier.
      drop_connect: times (n - 1) / 16 the probability of dropping an image's branch in block n.
      dtype: dtype of the computation.
      num_classes: size of the logits.
      **fields: further arguments of `micro_dense_block`.

    Raises:
      UserError: for numbers that fit no network.
    """
    for number in replaced:
        check_whole_number("replaced", number, 2)
    if max(replaced, default=0) > BLOCKS or len(set(replaced)) < len(replaced):
        raise UserError(f"replaced must be different numbers from 2 to {BLOCKS}, got {replaced}")
    block = micro_dense_block(num_layers=num_layers, compression=compression, **fields)
    return _network(
        tuple(replaced),
        block,
        shortcut_topology,
        shortcut_topology_args,
        dropout=dropout,
        drop_connect=drop_connect,
        dtype=dtype,
        num_classes=num_classes,
    )


def _network(
    replaced: tuple[int, ...],
    replacement: MicroDense | None,
    topology: TopologyLike,
    topology_args: TopologyArgs,
    **fields: Any,
) -> EfficientNet:
    depths = [row.blocks - 1 for row in B0_STAGES]
    topologies = stage_topologies(topology, topology_args, depths, shortcuts=True)
    network = EfficientNet(
        shortcut_topologies=topologies, replaced=replaced, replacement=replacement, **fields
    )
    check_shortcut_aggregation(network.aggregation)
    if network.padding not in PADDINGS:
        raise unknown("padding", str(network.padding), PADDINGS)
    check_number("dropout", network.dropout, 0, 0.99)
    check_number("drop_connect", network.drop_connect, 0, 0.99)
    return network


register_family(
    "efficientnet_b0",
    efficientnet_b0,
    pattern=r"efficientnet_b0",
    paper="EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019,"
    " arXiv 1905.11946",
    **IMAGENET,
)
register_family(
    "micro_dense_efficientnet_b0",
    micro_dense_efficientnet_b0,
    pattern=r"micro_dense_efficientnet_b0",
    paper="When Residual Learning Meets Dense Aggregation: Rethinking the Aggregation of Deep"
    " Neural Networks, arXiv 2004.08796",
    **IMAGENET,
)
