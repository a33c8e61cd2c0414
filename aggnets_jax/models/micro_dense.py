"""Micro-Dense Nets: PyramidNets whose blocks are small dense stages.

Paper: Zhu et al., "When Residual Learning Meets Dense Aggregation: Rethinking the Aggregation of
Deep Neural Networks", arXiv 2004.08796, Table 2.

    x_k = pad(x_{k-1}) + F_k(x_{k-1}),  F_k a micro-dense block (`layers.micro_dense_blocks`)

Stem, widths of the blocks (eq. 14), shortcuts and head are the same as in PyramidNet.

Where the paper is unclear: Figure 4 (left) varies the layers n of a block at "the same number of
parameters and depths", without saying which n. A block has 2n + 2 convolutions. If the depth counts
convolutions, as in all other networks, the networks have 240 (60 blocks of n = 1, 30 of n = 3, 24
of n = 4), or the nearest number for three equal stages: 234 (39 of n = 2) and 252 (21 of n = 5).
The compression keeps the size, and alpha stays 64. If the depth counts blocks, as in the networks'
names, there are 30 blocks for each n (`mdnet30_a64_n1`, ...), and the number of convolutions grows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from aggnets_jax.arguments import check_whole_number
from aggnets_jax.connectivity.topology import MAX_DEPTH, TopologyArgs, TopologyLike, per_stage
from aggnets_jax.errors import UserError
from aggnets_jax.layers.micro_dense_blocks import micro_dense_block
from aggnets_jax.models.pyramidnet import (
    PyramidNet,
    checked,
    linear_widths,
    make_shortcut_topologies,
)
from aggnets_jax.models.registry import register_family


def mdnet(
    *,
    depth: int,
    alpha: int | None = None,
    widths: Sequence[int] | None = None,
    num_layers: int = 3,
    compression: float | None = None,
    width_rule: str = "pyramidal",
    growing: bool = True,
    final_relu: bool = True,
    topology: TopologyLike = "dense",
    topology_args: Mapping[str, Any] | None = None,
    aggregation: str = "concat",
    shortcut_topology: TopologyLike = "plain",
    shortcut_topology_args: TopologyArgs = None,
    **fields: Any,
) -> PyramidNet:
    """Build a Micro-Dense Net from the numbers in its name.

    Args:
      depth: blocks, a third of them in each stage.
      alpha: channels of the last block beyond the 16 of the stem.
      widths: channels of each stage, in the place of `alpha`; the stem is as wide as the first.
      num_layers: n, dense layers in a block.
      compression: width to which a block first brings its input, as a part of the input's; default
        as in the paper's tables, or as in its figure with so many layers, else 0.275.
      width_rule: "pyramidal", "pyramidal_narrow" or "pyramidal_finely_grouped".
      growing: whether the layers of a block widen.
      final_relu: whether a block's last convolution is rectified.
      topology: pattern of the dense layers within a block.
      topology_args: arguments of the pattern.
      aggregation: aggregation within a block, "concat" or "padded_sum".
      shortcut_topology: pattern of the outputs that are added to a block, or one for each stage;
        "plain" is the identity shortcut.
      shortcut_topology_args: arguments of the pattern, or one mapping for each stage.
      **fields: further fields of `PyramidNet`; the rows with a "+" have `dynamic_regularisation`.

    Raises:
      UserError: for numbers that fit no network.
    """
    if compression is None and widths is not None:
        compression = STEPPED_COMPRESSION
    elif compression is None and growing and alpha == 64 and (depth, num_layers) in EQUAL_DEPTH:
        compression = EQUAL_DEPTH[depth, num_layers]
    elif compression is None:
        compression = EQUAL_SIZE_COMPRESSIONS.get((num_layers, growing), 0.275)
    block = micro_dense_block(
        num_layers=num_layers,
        compression=compression,
        width_rule=width_rule,
        growing=growing,
        final_relu=final_relu,
        topology=topology,
        topology_args=topology_args,
        aggregation=aggregation,
    )
    blocks = stage_blocks(depth)
    stem_features, all_widths = _widths(alpha, widths, blocks)
    return checked(
        PyramidNet(
            shortcut_topologies=make_shortcut_topologies(
                shortcut_topology, shortcut_topology_args, blocks
            ),
            widths=all_widths,
            stem_features=stem_features,
            block=block,
            **fields,
        )
    )


def stage_blocks(depth: int) -> tuple[int, int, int]:
    """Return the blocks of each stage, a third of `depth`, or raise `UserError`."""
    check_whole_number("depth", depth, 1, 3 * MAX_DEPTH)
    if depth % 3:
        raise UserError(
            f"depth {depth} fits no network of this family; allowed: 3n blocks, nearest"
            f" {3 * max(1, round(depth / 3))}"
        )
    return (depth // 3,) * 3


def _widths(
    alpha: int | None, widths: Sequence[int] | None, blocks: Sequence[int]
) -> tuple[int, tuple[int, ...]]:
    """Return the channels of the stem and of all blocks."""
    if (alpha is None) == (widths is None):
        raise UserError("a network needs one of the arguments 'alpha' and 'widths'")
    if widths is not None:
        return stepped_widths(widths, blocks)
    check_whole_number("alpha", alpha, 0)
    return 16, linear_widths(16, alpha, sum(blocks))


def stepped_widths(widths: Sequence[int], blocks: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """Return the channels of the stem and of all blocks from the channels of each stage.

    Raises:
      UserError: if there is not one width for each stage, or one is less than the one before.
    """
    widths = per_stage("widths", widths, len(blocks))
    for width in widths:
        check_whole_number("widths", width, 1)
    if sorted(widths) != [*widths]:
        raise UserError(f"widths must not fall, because shortcuts are padded; got {widths}")
    return widths[0], tuple(w for w, n in zip(widths, blocks, strict=True) for _ in range(n))


# By (layers in a block, growing): the compression that comes nearest to the 736,874 parameters of
# three growing layers in mdnet30_a64 (Figure 4). With five layers they are 2 % less, else within
# 0.4 %.
EQUAL_SIZE_COMPRESSIONS = {
    (1, True): 0.618,  # 739,206
    (2, True): 0.384,  # 734,406
    (3, True): 0.275,
    (4, True): 0.21,  # 735,854
    (5, True): 0.16,  # 719,762
    (3, False): 0.343,  # 739,014
}
# The same by (blocks, layers in a block) for networks of about as many convolutions, within 1 %.
EQUAL_DEPTH = {
    (60, 1): 0.418,  # 737,838
    (39, 2): 0.329,  # 729,890
    (24, 4): 0.232,  # 738,342
    (21, 5): 0.2,  # 736,786
}
# The compression of Table 6 (`micro_dense_resnext.py`), and wherever stages have one width.
STEPPED_COMPRESSION = 1 / 16

register_family(
    "mdnet",
    mdnet,
    pattern=r"mdnet(?P<depth>\d+)_(?:a(?P<alpha>\d+)|w(?P<widths>\d+(?:_\d+)+))"
    r"(?:_n(?P<num_layers>\d+))?(?P<growing>_fixed)?",
    parse={"growing": lambda text: False},
    paper="When Residual Learning Meets Dense Aggregation: Rethinking the Aggregation of Deep"
    " Neural Networks, arXiv 2004.08796",
)
