"""HCGNet: dense connectivity between modules that are residual and gated inside.

Paper: Yang et al., "Gated Convolutional Networks with Hybrid Connectivity for Image
Classification", AAAI 2020, arXiv 1908.09699.

    hybrid block:   y_l = SMG_l(concat(y_0, y_1, ..., y_{l-1})), its output concat(y_0, ..., y_N)
    transition:     one SMG module at stride 2; its input is not concatenated

The SMG module, with its equations, is in `layers.smg`.

Where the paper and the reference code (https://github.com/winycg/HCGNet) differ:
* The middle of a transition has C_in - floor((C_in - C_out) / 2) channels, about 1.5 C_out (alpha).
* The code for ImageNet applies dropout to a tensor that it does not use; the paper has 0.1 before
  the classifier. DropBlock for CIFAR is only in the code; its squares are cut off at the border,
  and begin at each position with probability strength / size^2. Here all squares lie within the
  map, see `layers.regularisation.DropBlock`.
* The printed FLOPs are multiply-adds of convolutions and of the classifier, two operations for each
  element of a normalisation of maps, and one for each element of a ReLU and value that a pooling
  reads. The code that counts them ignores dilation, so B's maps have two rows and columns more.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from flax import linen as nn

from aggnets_jax.arguments import check_number, check_whole_number, choose
from aggnets_jax.connectivity.aggregation import check_aggregation
from aggnets_jax.connectivity.stage import Stage
from aggnets_jax.connectivity.topology import Topology, TopologyArgs, TopologyLike, stage_topologies
from aggnets_jax.errors import UserError
from aggnets_jax.layers import common
from aggnets_jax.layers.pooling import max_pool
from aggnets_jax.layers.regularisation import DropBlock
from aggnets_jax.layers.smg import GATE_ACTIVATIONS, SMG
from aggnets_jax.models.flops import with_elementwise
from aggnets_jax.models.network import Endpoints, Network
from aggnets_jax.models.registry import IMAGENET, register_family
from aggnets_jax.models.sparsenet import NUMBERS, checked_growth_rates


class HCGNet(Network):
    """Stem, hybrid blocks with transitions between them, head.

    Attributes:
      topologies: topology of each hybrid block.
      growth_rates: k of each hybrid block.
      stem_features: channels of the stem.
      groups: groups of the 3x3 convolutions in hybrid blocks.
      compression: theta of the transitions.
      multiplier: alpha of the hybrid blocks; the middle of a module has alpha k channels.
      transition_multiplier: alpha of the transitions; None: 1.5, rounded as in the reference code.
      update_reductions: r_u of the update gates in hybrid blocks, and in transitions.
      forget_reductions: r_f of the forget gates in hybrid blocks, and in transitions.
      gate_activation: activation within the gates, "tanh" or "relu".
      aggregation: "concat"; with "sum" or "mean" a 1x1 convolution brings y_0 to k channels.
      imagenet_stem: [conv3x3-BN-ReLU] x 3 and maxpool3x3/2, the first at stride 2, in the place of
        a 3x3 convolution.
      dropout: probability of dropping a feature before the classifier, 0.1 for ImageNet.
      dropblock: side of the squares that DropBlock drops from a transition's output; 0: none. It is
        2 for CIFAR in the reference code; it drops nothing unless `config.strength` is set.
    """

    topologies: tuple[Topology, ...]
    growth_rates: tuple[int, ...]
    stem_features: int
    groups: int
    compression: float = 0.5
    multiplier: float = 4
    transition_multiplier: float | None = None
    update_reductions: tuple[int, int] = (2, 4)
    forget_reductions: tuple[int, int] = (2, 4)
    gate_activation: str = "tanh"
    aggregation: str = "concat"
    imagenet_stem: bool = False
    dropout: float = 0.0
    dropblock: int = 0

    def _features(
        self, x: jax.Array, endpoints: Endpoints, norm: common.Norm, conv: common.Conv, train: bool
    ) -> jax.Array:
        conv = partial(conv, kernel_init=common.uniform_fan_in)
        if self.imagenet_stem:
            x = common.deep_stem(x, self.stem_features, norm=norm, conv=conv)
            x = max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        else:
            x = conv(self.stem_features, 3, name="stem_conv")(x)
        endpoints["stem"] = x

        for i, (topology, k) in enumerate(zip(self.topologies, self.growth_rates, strict=True), 1):
            if i > 1:
                features, width = self.transition_widths(common.features_of(x).shape[-1])
                x = self._module(1, norm, conv)(features, width, 1, 2, name=f"transition{i - 1}")(x)
                if self.dropblock:
                    x = DropBlock(self.dropblock, train, name=f"dropblock{i - 1}")(x)
            x = Stage(
                topology,
                unit=partial(self._module(0, norm, conv), k, self.width(k), self.groups, 1),
                aggregation=self.aggregation,
                projection=None if self.aggregation == "concat" else partial(conv, k, 1),
                preactivated=True,
                train=train,
                kind=lambda layer: None,
                execution=self.execution,
                name=f"stage{i}",
            )(x)
            endpoints[f"stage{i}"] = common.features_of(x)

        return common.activate(norm(name="head_norm"), x)

    def _head(self, x: jax.Array, train: bool) -> dict[str, Any]:
        return {
            "dropout": nn.Dropout(self.dropout, deterministic=not train),
            "bias_init": common.uniform_bias(x.shape[-1]),
        }

    def _module(self, position: int, norm: common.Norm, conv: common.Conv) -> Callable[..., SMG]:
        """Return a function that makes modules of hybrid blocks (0) or of transitions (1)."""
        return partial(
            SMG,
            reduction=self.forget_reductions[position],
            update_reduction=self.update_reductions[position],
            activation=self.gate_activation,
            norm=norm,
            conv=conv,
        )

    def width(self, growth_rate: int) -> int:
        """Return the channels in the middle of a module of a hybrid block."""
        return common.compressed(growth_rate, self.multiplier)

    def transition_widths(self, channels: int) -> tuple[int, int]:
        """Return the channels of the output and of the middle of a transition."""
        features = common.compressed(channels, self.compression)
        if self.transition_multiplier is None:
            return features, channels - (channels - features) // 2
        return features, common.compressed(features, self.transition_multiplier)


def hcgnet(
    *,
    variant: str | None = None,
    modules: Sequence[int] | None = None,
    growth_rate: int | Sequence[int] | None = None,
    topology: TopologyLike = "dense",
    topology_args: TopologyArgs = None,
    stem_features: int | None = None,
    groups: int = 4,
    update_reductions: int | Sequence[int] = (2, 4),
    forget_reductions: int | Sequence[int] = (2, 4),
    imagenet_stem: bool = False,
    **fields: Any,
) -> HCGNet:
    """Build an `HCGNet`.

    Args:
      variant: "a1", "a2", "a3", "b" or "c", the default of `modules` and `growth_rate`.
      modules: SMG modules of each hybrid block.
      growth_rate: k, or one for each hybrid block.
      topology: name of a pattern, or one for each hybrid block.
      topology_args: arguments of the pattern, or one mapping for each hybrid block.
      stem_features: default 2k, and 64 with `imagenet_stem`.
      groups: groups of the 3x3 convolutions in hybrid blocks.
      update_reductions: r_u in hybrid blocks and in transitions, or one number for both.
      forget_reductions: r_f in hybrid blocks and in transitions, or one number for both.
      imagenet_stem: whether for large images.
      **fields: further fields of `HCGNet`.

    Raises:
      UserError: for numbers that fit no network.
    """
    if variant is not None:
        defaults = choose("variant", VARIANTS, variant)
        modules = defaults[0] if modules is None else modules
        growth_rate = defaults[1] if growth_rate is None else growth_rate
    if not modules or growth_rate is None:
        raise UserError("a network needs the arguments 'modules' and 'growth_rate', or 'variant'")
    growth_rates = checked_growth_rates(growth_rate, len(modules), groups, least=2)
    topologies = stage_topologies(topology, topology_args, modules)
    if stem_features is None:
        stem_features = 64 if imagenet_stem else 2 * growth_rates[0]
    check_whole_number("stem_features", stem_features, 2)
    network = HCGNet(
        topologies=topologies,
        growth_rates=growth_rates,
        stem_features=stem_features,
        groups=groups,
        update_reductions=_pair("update_reductions", update_reductions),
        forget_reductions=_pair("forget_reductions", forget_reductions),
        imagenet_stem=imagenet_stem,
        **fields,
    )
    _check_modules(network)
    check_number("compression", network.compression, 0.01, 1)
    check_number("dropout", network.dropout, 0, 0.99)
    check_whole_number("dropblock", network.dropblock, 0)
    check_aggregation(network.aggregation)
    return network


def _pair(what: str, value: int | Sequence[int]) -> tuple[int, int]:
    """Return the numbers of hybrid blocks and of transitions."""
    values = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(values) != 2:
        raise UserError(
            f"{what} has {len(values)} values; allowed: one, or two, the second for transitions"
        )
    return values


def _check_modules(network: HCGNet) -> None:
    """Raise `UserError` if a number of the SMG modules is out of range."""
    choose("gate_activation", GATE_ACTIVATIONS, network.gate_activation)
    for reduction in network.update_reductions + network.forget_reductions:
        check_whole_number("update_reductions and forget_reductions", reduction, 1)
    check_number("multiplier", network.multiplier, 0.01, 100)
    if network.transition_multiplier is not None:
        check_number("transition_multiplier", network.transition_multiplier, 0.01, 100)
    for width in map(network.width, network.growth_rates):
        if width < network.groups or width % network.groups:
            raise UserError(
                f"multiplier {network.multiplier} makes modules of {width} channels, which can't be"
                f" split into {network.groups} groups"
            )


# SMG modules and growth rates of the hybrid blocks.
VARIANTS = {
    "a1": ((8, 8, 8), (12, 24, 36)),
    "a2": ((8, 8, 8), (24, 36, 64)),
    "a3": ((12, 12, 12), (36, 48, 80)),
    "b": ((3, 6, 12, 8), (32, 48, 64, 96)),
    "c": ((6, 12, 18, 14), (48, 56, 72, 112)),
}
_BLOCKS = rf"n(?P<modules>{NUMBERS})_k(?P<growth_rate>{NUMBERS})"

for _name, _pattern, _imagenet_stem, _registered in [
    ("hcgnet", rf"hcgnet_(?:(?P<variant>a[123])|{_BLOCKS})", False, {}),
    ("hcgnet_imagenet", rf"hcgnet_(?:(?P<variant>[bc])|imagenet_{_BLOCKS})", True, IMAGENET),
]:
    register_family(
        _name,
        partial(hcgnet, imagenet_stem=_imagenet_stem),
        pattern=_pattern,
        paper="Gated Convolutional Networks with Hybrid Connectivity, AAAI 2020, arXiv 1908.09699",
        parse={"modules": lambda text: tuple(map(int, text.split("_")))},
        flops=with_elementwise,
        **_registered,
    )
