"""MixNet: links that add and links that concatenate, in one dense topology.

Paper: Wang et al., "Mixed Link Networks", IJCAI 2018, arXiv 1802.01808.

    x_l = x_{l-1} followed by y_l; they overlap by k1 channels, which are added
    y_l = [inner_l(x_{l-1}) || outer_l(x_{l-1})], k1 and k2 channels

    x_{l-1}  [ . . . . . . . . . ]
                         +  +  +
    y_l                  [inner]-[outer]
    x_l      [ . . . . . . . . . . . . .]

inner and outer are two bottlenecks BN-ReLU-conv1x1(4k)-BN-ReLU-conv3x3(k). k1 = 0 gives a
DenseNet-BC, k2 = 0 a residual network.

The paper does not say where the inner link adds and how wide the stem is. As in the reference code
(https://github.com/DeepInsight-PCALab/MixNet), it adds to the last k1 channels, and the stem has
max(2 k2, k1) channels. The code's README has the errors, and the sizes (for CIFAR with 10 classes).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from aggnets_jax.arguments import check_number, check_whole_number, known_depth, layers_in_depth
from aggnets_jax.connectivity.aggregation import Masked, Mixed, check_aggregation
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import Topology, TopologyArgs, TopologyLike, stage_topologies
from aggnets_jax.errors import UserError
from aggnets_jax.layers import common
from aggnets_jax.layers.dense_layers import DenseLayer, Transition
from aggnets_jax.models.network import Endpoints, Network
from aggnets_jax.models.registry import IMAGENET, register_family


class MixedLayer(nn.Module):
    """The unit: an inner link, which is added, and an outer link, which is appended.

    Attributes:
      k1: channels of the inner link.
      k2: channels of the outer link.
      bottleneck: `bottleneck(features, name=...)` makes the module of a link.
    """

    k1: int
    k2: int
    bottleneck: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array | Masked) -> jax.Array:
        """[batch, height, width, channels] -> [batch, height, width, k1 + k2]."""
        links = [("inner", self.k1), ("outer", self.k2)]
        outputs = [self.bottleneck(features, name=name)(x) for name, features in links if features]
        return jnp.concatenate(outputs, axis=-1)


class MixNet(Network):
    """Stem, stages of `MixedLayer` with transitions between them, head.

    Attributes:
      topologies: topology of each stage.
      k1: channels of the inner links.
      k2: channels of the outer links.
      stem_features: channels of the stem.
      compression: theta of the transitions.
      aggregation: "mixed", or "concat"; with "sum" or "mean" a 1x1 convolution brings y_0 to
        k1 + k2 channels.
      imagenet_stem: conv7x7/2-BN-ReLU-maxpool3x3/2 in the place of a 3x3 convolution.
      dropout: probability of dropping a channel after each convolution of a layer.
    """

    topologies: tuple[Topology, ...]
    k1: int
    k2: int
    stem_features: int
    compression: float = 0.5
    aggregation: str = "mixed"
    imagenet_stem: bool = False
    dropout: float = 0.0

    def _features(
        self, x: jax.Array, endpoints: Endpoints, norm: common.Norm, conv: common.Conv, train: bool
    ) -> jax.Array:
        dropout = partial(common.channel_dropout, self.dropout, train=train)
        bottleneck = partial(
            DenseLayer, bottleneck=True, groups=1, norm=norm, conv=conv, dropout=dropout
        )
        mixed = self.aggregation == "mixed"
        widens = mixed or self.aggregation == "concat"
        if self.imagenet_stem:
            x = common.imagenet_stem(x, self.stem_features, norm=norm, conv=conv)
        else:
            x = conv(self.stem_features, 3, name="stem_conv")(x)
        endpoints["stem"] = x

        for i, topology in enumerate(self.topologies, start=1):
            if i > 1:
                name = f"transition{i - 1}"
                # With less than k1 channels the next inner link could not add all of its own.
                x = Transition(self.compression, norm, conv, self.k1, name=name)(x)
            x = Stage(
                topology,
                unit=partial(MixedLayer, self.k1, self.k2, bottleneck),
                aggregation=partial(Mixed, self.k1) if mixed else self.aggregation,
                projection=None if widens else partial(conv, self.k1 + self.k2, 1),
                preactivated=True,
                train=train,
                execution=self.execution,
                name=f"stage{i}",
            )(x)
            endpoints[f"stage{i}"] = common.features_of(x)

        return common.activate(norm(name="head_norm"), x)


def mixnet(
    *,
    depth: int | None = None,
    k1: int | None = None,
    k2: int | None = None,
    topology: TopologyLike = "dense",
    topology_args: TopologyArgs = None,
    stage_depths: Sequence[int] | None = None,
    stem_features: int | None = None,
    imagenet_stem: bool = False,
    **fields: Any,
) -> MixNet:
    """Build a `MixNet`.

    Args:
      depth: convolutions on the longest path, and the classifier; needed without `stage_depths`.
      k1: channels of the inner links; default with `imagenet_stem` from `depth`.
      k2: channels of the outer links; default with `imagenet_stem` from `depth`.
      topology: name of a pattern, or one for each stage.
      topology_args: arguments of the pattern, or one mapping for each stage.
      stage_depths: layers of each stage; default from `depth`.
      stem_features: default the larger of 2 k2 and k1.
      imagenet_stem: whether for large images.
      **fields: further fields of `MixNet`.

    Raises:
      UserError: for numbers that fit no network.
    """
    if stage_depths is None:
        stage_depths = _stage_depths(depth, imagenet_stem)
    if imagenet_stem and depth in IMAGENET_DEPTHS:
        k1, k2 = (IMAGENET_DEPTHS[depth][1] if k is None else k for k in (k1, k2))
    for name, k in (("k1", k1), ("k2", k2)):
        if k is None:
            raise UserError(f"a network needs the argument {name!r}")
        check_whole_number(name, k, 0)
    if k1 + k2 == 0:
        raise UserError("k1 and k2 can't both be 0: layers would have no channels")
    if stem_features is None:
        stem_features = max(2 * k2, k1)
    check_whole_number("stem_features", stem_features, 1)
    network = MixNet(
        topologies=stage_topologies(topology, topology_args, stage_depths),
        k1=k1,
        k2=k2,
        stem_features=stem_features,
        imagenet_stem=imagenet_stem,
        **fields,
    )
    check_aggregation(network.aggregation, ("mixed", "concat", "sum", "mean"))
    check_number("compression", network.compression, 0.01, 1)
    check_number("dropout", network.dropout, 0, 0.99)
    return network


# Layers of each stage, and k1 = k2.
IMAGENET_DEPTHS: dict[int, tuple[tuple[int, ...], int]] = {
    105: ((6, 12, 20, 12), 32),
    121: ((6, 12, 24, 16), 40),
    141: ((6, 12, 30, 20), 48),
}


def _stage_depths(depth: int | None, imagenet_stem: bool) -> tuple[int, ...]:
    """Return the layers of each stage."""
    if depth is None:
        raise UserError("a network needs the argument 'depth', or 'stage_depths'")
    if imagenet_stem:
        return known_depth(depth, IMAGENET_DEPTHS)[0]
    return (layers_in_depth(depth, 6, 4),) * 3


_K = r"_k(?P<k1>\d+)_(?P<k2>\d+)"

# ImageNet comes first: mixnet105 is a network of ImageNet.
for _name, _pattern, _imagenet_stem, _registered in [
    ("mixnet_imagenet", rf"mixnet(?P<depth>105|121|141)(?:{_K})?", True, IMAGENET),
    ("mixnet", rf"mixnet(?P<depth>\d+){_K}", False, {}),
]:
    register_family(
        _name,
        partial(mixnet, imagenet_stem=_imagenet_stem),
        pattern=_pattern,
        paper="Mixed Link Networks, IJCAI 2018, arXiv 1802.01808",
        **_registered,
    )
