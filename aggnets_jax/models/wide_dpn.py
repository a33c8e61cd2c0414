"""DPN-28-10: a wide residual network with a densely connected path beside it.

Paper: Chen et al., "Dual Path Networks", NeurIPS 2017, arXiv 1707.01629, on the wide residual
blocks of Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, arXiv 1605.07146. The paper
has no such network for CIFAR: it is the one of https://github.com/Queequeg92/DualPathNet, whose
size and errors HCGNet and MixNet quote.

    x_l = [r_0 + ... + r_l || d_0 || ... || d_l],  [r_l || d_l] = F_l(x_{l-1})

Three stages with residual paths of 16k, 32k, 64k channels and dense steps g of 1.6k, 3.2k, 6.4k
(160 and 16 at k = 10), with (depth - 4) / 6 units each. F_l is BN-ReLU-conv3x3-BN-ReLU-conv3x3 of
both paths at once. The unit that opens a stage has a block of WRN for r_0, and a plain 3x3
convolution to 2g channels for d_0.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from aggnets_jax.arguments import check_whole_number, layers_in_depth
from aggnets_jax.connectivity.aggregation import DualPath, Masked, check_aggregation
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import Topology, TopologyArgs, TopologyLike, stage_topologies
from aggnets_jax.errors import UserError
from aggnets_jax.layers import common
from aggnets_jax.models.network import Endpoints, Network
from aggnets_jax.models.registry import register_family


class WideUnit(nn.Module):
    """The unit F: BN-ReLU-conv3x3(features, stride)-BN-ReLU-conv3x3(features).

    Attributes:
      features: channels of the output.
      stride: stride of the first convolution.
      norm: makes batch normalisations.
      conv: makes convolutions.
      projects: whether conv1x1 of the activated input at the stride is added.
    """

    features: int
    stride: int
    norm: common.Norm
    conv: common.Conv
    projects: bool = False

    @nn.compact
    def __call__(self, x: jax.Array | Masked) -> jax.Array:
        """[batch, height, width, channels] -> [batch, rows, columns, features]."""
        read = common.activate(self.norm(name="norm1"), x)
        y = self.conv(self.features, 3, stride=self.stride, name="conv1")(read)
        y = self.conv(self.features, 3, name="conv2")(nn.relu(self.norm(name="norm2")(y)))
        if self.projects:
            y += self.conv(self.features, 1, stride=self.stride, name="projection")(read)
        return y


class WideOpening(nn.Module):
    """[`WideUnit` with projection || conv3x3(dense) of the input itself], both at a stride."""

    residual: int
    dense: int
    stride: int
    norm: common.Norm
    conv: common.Conv

    @nn.compact
    def __call__(self, x: jax.Array | Masked) -> jax.Array:
        """[batch, height, width, channels] -> [batch, rows, columns, residual + dense]."""
        made = (self.stride, self.norm, self.conv)
        residual = WideUnit(self.residual, *made, projects=True, name="residual")(x)
        dense = self.conv(self.dense, 3, stride=self.stride, name="dense")(common.masked(x))
        return jnp.concatenate([residual, dense], axis=-1)


class WideDPN(Network):
    """Stem conv3x3(16), three stages of `WideUnit`, BN-ReLU, head.

    Attributes:
      topologies: topology of each stage's units after its opening.
      widening: k.
      aggregation: "dual_path", or "concat" of all channels.
    """

    topologies: tuple[Topology, ...]
    widening: int
    aggregation: str = "dual_path"

    def _features(
        self, x: jax.Array, endpoints: Endpoints, norm: common.Norm, conv: common.Conv, train: bool
    ) -> jax.Array:
        dual = self.aggregation == "dual_path"

        x = conv(16, 3, name="stem_conv")(x)
        endpoints["stem"] = x
        for i, topology in enumerate(self.topologies, start=1):
            width = 16 * self.widening * 2 ** (i - 1)
            step, stride = width // 10, 1 if i == 1 else 2
            x = WideOpening(width, 2 * step, stride, norm, conv, name=f"stage{i}_opening")(x)
            x = Stage(
                topology,
                unit=partial(WideUnit, width + step, 1, norm, conv),
                aggregation=partial(DualPath, width) if dual else self.aggregation,
                preactivated=True,
                train=train,
                execution=self.execution,
                name=f"stage{i}",
            )(x)
            endpoints[f"stage{i}"] = common.features_of(x)

        return common.activate(norm(name="head_norm"), x)


def wide_dpn(
    *,
    depth: int,
    widening: int,
    topology: TopologyLike = "dense",
    topology_args: TopologyArgs = None,
    **fields: Any,
) -> WideDPN:
    """Build a `WideDPN`.

    Args:
      depth: 6n + 4: three stages of n units, the first of which opens the stage.
      widening: k, a multiple of 5 so that the dense steps are whole numbers.
      topology: pattern of the outputs that a unit after the opening reads, or one for each stage.
      topology_args: arguments of the pattern, or one mapping for each stage.
      **fields: further fields of `WideDPN`.

    Raises:
      UserError: for numbers that fit no network.
    """
    check_whole_number("widening", widening, 1)
    if widening % 5:
        nearest = max(5, 5 * round(widening / 5))
        raise UserError(
            f"widening {widening} gives no whole dense steps; allowed: multiples of 5, nearest"
            f" {nearest}"
        )
    depths = (layers_in_depth(depth, 6, 4) - 1,) * 3
    topologies = stage_topologies(topology, topology_args, depths, opened=True)
    network = WideDPN(topologies=topologies, widening=widening, **fields)
    check_aggregation(network.aggregation, ("dual_path", "concat"), "the opening is wider")
    return network


register_family(
    "wide_dpn",
    wide_dpn,
    pattern=r"dpn(?P<depth>\d+)_(?P<widening>\d+)",
    paper="Dual Path Networks, NeurIPS 2017, arXiv 1707.01629",
)
