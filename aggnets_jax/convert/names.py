"""Names of the parts of our networks in other implementations.

A dialect is a list of rules. A rule is a pattern of our module paths and a function from its groups
to the module's name in the other implementation, where a kernel or scale is the module's `weight`,
and running averages are `running_mean` and `running_var`. To add a dialect, list it in `DIALECTS`
under the class of the network. The first dialect of a class is written by default.

Networks that differ in their shortcuts or topologies may have weights of the same shapes. A dialect
therefore has a condition for networks that compute the same function in the other implementation.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from flax import linen as nn

from aggnets_jax.connectivity.topology import Topology, make_topology
from aggnets_jax.layers.residual_blocks import BasicBlock, Bottleneck
from aggnets_jax.models.efficientnet import EfficientNet
from aggnets_jax.models.hcgnet import HCGNet
from aggnets_jax.models.res2net import Res2Block, scale_wiring
from aggnets_jax.models.resnet import ResNet
from aggnets_jax.models.seqresnet import SeqResNet, SeqResNeXt
from aggnets_jax.models.sparsenet import SparseNet

Rule = tuple[str, str | Callable[..., str]]
"""A pattern of module paths here, and the name there: a format of the pattern's groups, in which
"{:-1}" counts from 0 instead of 1 and "{:0}" is 0 without a match; or a function of the groups."""

Rules = Callable[[Any], tuple[Rule, ...]]
"""Makes a dialect's rules for a network, none if the network is another function there."""

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_LEAVES |= {"mean": "running_mean", "var": "running_var"}


def torch_names(rules: Iterable[Rule], paths: Iterable[str]) -> dict[str, str] | None:
    """Return our paths, such as "params/stage1/layer3/conv1/kernel", by the names there.

    Returns None if the rules have no name for one of them.
    """
    names = {}
    for path in paths:
        module, _, leaf = path.partition("/")[2].rpartition("/")
        renamed = _renamed(module, rules)
        if renamed is None or leaf not in _LEAVES:
            return None
        names[f"{renamed}.{_LEAVES[leaf]}"] = path
    return names


def own_names(paths: Iterable[str]) -> dict[str, str]:
    """Return our paths by names made of them, "stage1.layer3.conv1.weight", for any network."""
    names = {}
    for path in paths:
        module, _, leaf = path.partition("/")[2].rpartition("/")
        names[".".join([*filter(None, module.split("/")), _LEAVES.get(leaf, leaf)])] = path
    return names


def _renamed(module: str, rules: Iterable[Rule]) -> str | None:
    """Return the name of a module by the first rule that fits; None if none does."""
    for pattern, name in rules:
        if match := re.fullmatch(pattern, module):
            if callable(name):
                return name(*match.groups())
            return name.format(*(_Group(group or "") for group in match.groups()))
    return None


class _Group(str):
    """A group of a pattern, for the formats of rules."""

    def __format__(self, spec: str) -> str:
        return str(int(self) - 1) if spec == "-1" else str(self) or spec


def _if(same: Callable[[Any], bool], rules: tuple[Rule, ...]) -> Rules:
    """Make the function that returns the rules for networks that are the same function there."""
    return lambda network: rules if same(network) else ()


def _read_as(pattern: str, topologies: Sequence[Topology]) -> bool:
    """Return whether all stages have the links of a pattern; short ones may by another pattern."""
    return all(
        t.depth == 0 or t.sources == make_topology(pattern, t.depth).sources for t in topologies
    )


def _identities(topologies: Sequence[Topology]) -> bool:
    """Return whether the shortcut of each layer is the output before it."""
    return all(t.sources[:-1] == tuple((n,) for n in range(t.depth)) for t in topologies)


def _is_densenet(network: SparseNet) -> bool:
    return _is_sparsenet(network, ("dense",)) and network.pool == "global"


def _is_sparsenet(network: SparseNet, patterns: Sequence[str] = ("dense", "sparse")) -> bool:
    # The flattening head of Table 4's networks has the names of the other.
    return (
        network.aggregation == "concat"
        and (network.pool == "global" or network.imagenet_stem)
        and any(_read_as(pattern, network.topologies) for pattern in patterns)
    )


# https://github.com/Lyken17/SparseNet
_SPARSENET: tuple[Rule, ...] = (
    (r"stem_(conv|norm)", "features.{}0"),
    (r"stage(\d+)/layer(\d+)/norm(\d)", "features.dense-stage-{:-1}.block-{}.bn{}"),
    (r"stage(\d+)/layer(\d+)/conv(\d)", "features.dense-stage-{:-1}.block-{}.conv{}"),
    (r"transition(\d+)/norm", "features.transition-{:-1}.bn1"),
    (r"transition(\d+)/conv", "features.transition-{:-1}.conv1"),
    (r"head_norm", "features.norm_last"),
    (r"classifier", "classifier.linear"),
)
# torchvision.models.densenet and timm.models.densenet
_DENSENET: tuple[Rule, ...] = (
    (r"stem_(conv|norm)", "features.{}0"),
    (r"stage(\d+)/layer(\d+)/((?:norm|conv)\d)", "features.denseblock{}.denselayer{}.{}"),
    (r"transition(\d+)/(norm|conv)", "features.transition{}.{}"),
    (r"head_norm", "features.norm5"),
    (r"classifier", "classifier"),
)
# The files that torchvision offered before 0.3, and still does: "norm.1" for "norm1".
_DENSENET_DOTTED: tuple[Rule, ...] = (
    (r"stage(\d+)/layer(\d+)/(norm|conv)(\d)", "features.denseblock{}.denselayer{}.{}.{}"),
    *_DENSENET,
)


def _has_identities(network: ResNet) -> bool:
    shortcuts = network.shortcuts
    return (
        not network.padded
        and network.branch_scale == 1
        and not shortcuts.inner
        and shortcuts.sources == "outputs"
        and shortcuts.aggregation in ("sum", "mean")  # of one
        and _identities(network.shortcut_topologies)
    )


def _is_resnet(network: ResNet) -> bool:
    return network.block in (BasicBlock, Bottleneck) and _has_identities(network)


def _is_res2net(network: ResNet) -> bool:
    if network.block is not Res2Block or not network.block_options["opening_pool"]:
        return False
    scales = network.block_options["topology"]
    plain = make_topology("plain", scales.depth)
    wirings = [scale_wiring(topology, scales.depth + 1).sources for topology in (scales, plain)]
    return wirings[0] == wirings[1] and _has_identities(network)


# The first block of a stage is its opening.
_BLOCK = r"stage(\d+)(?:_opening|/layer(\d+))"
# torchvision.models.resnet and timm.models.resnet
_RESNET: tuple[Rule, ...] = (
    (r"stem_conv", "conv1"),
    (r"stem_norm", "bn1"),
    (rf"{_BLOCK}/conv(\d)", "layer{}.{:0}.conv{}"),
    (rf"{_BLOCK}/norm(\d)", "layer{}.{:0}.bn{}"),
    (r"stage(\d+)_projection/conv", "layer{}.0.downsample.0"),
    (r"stage(\d+)_projection/norm", "layer{}.0.downsample.1"),
    (r"classifier", "fc"),
)
# timm.models.res2net, which has the names of the authors' code
_RES2NET: tuple[Rule, ...] = (
    *_RESNET,
    (rf"{_BLOCK}/scales/layer(\d+)/conv", "layer{}.{:0}.convs.{:-1}"),
    (rf"{_BLOCK}/scales/layer(\d+)/norm", "layer{}.{:0}.bns.{:-1}"),
)


def _is_efficientnet(network: EfficientNet) -> bool:
    return not network.replaced and _identities(network.shortcut_topologies)


def _pads_symmetrically(network: EfficientNet) -> bool:
    return _is_efficientnet(network) and network.padding == "symmetric"


def _torchvision_mbconv(stage: str, layer: str | None, part: str) -> str:
    # Stage 1 does not expand, so that its blocks have one convolution less.
    first = 0 if stage == "1" else 1
    parts = {
        "expand_conv": "0.0",
        "expand_norm": "0.1",
        "depthwise_conv": f"{first}.0",
        "depthwise_norm": f"{first}.1",
        "squeeze_excite/reduce": f"{first + 1}.fc1",
        "squeeze_excite/expand": f"{first + 1}.fc2",
        "project_conv": f"{first + 2}.0",
        "project_norm": f"{first + 2}.1",
    }
    return f"features.{stage}.{layer or 0}.block.{parts[part]}"


def _timm_mbconv(stage: str, layer: str | None, part: str) -> str:
    first = 0 if stage == "1" else 1
    parts = {
        "expand_conv": "conv_pw",
        "expand_norm": "bn1",
        "depthwise_conv": "conv_dw",
        "depthwise_norm": f"bn{first + 1}",
        "squeeze_excite/reduce": "se.conv_reduce",
        "squeeze_excite/expand": "se.conv_expand",
        "project_conv": "conv_pwl" if first else "conv_pw",
        "project_norm": f"bn{first + 2}",
    }
    return f"blocks.{int(stage) - 1}.{layer or 0}.{parts[part]}"


_MBCONV_PARTS = r"((?:expand|depthwise|project)_(?:conv|norm)|squeeze_excite/(?:reduce|expand))"
_MBCONV = rf"{_BLOCK}/{_MBCONV_PARTS}"
_EFFICIENTNET_TORCHVISION: tuple[Rule, ...] = (
    (r"stem_conv", "features.0.0"),
    (r"stem_norm", "features.0.1"),
    (_MBCONV, _torchvision_mbconv),
    (r"head_conv", "features.8.0"),
    (r"head_norm", "features.8.1"),
    (r"classifier", "classifier.1"),
)
_EFFICIENTNET_TIMM: tuple[Rule, ...] = (
    (r"stem_conv", "conv_stem"),
    (r"stem_norm", "bn1"),
    (_MBCONV, _timm_mbconv),
    (r"head_conv", "conv_head"),
    (r"head_norm", "bn2"),
    (r"classifier", "classifier"),
)


def _is_seqconv(network: SeqResNet) -> bool:
    slices = [w // k for w, k in zip(network.widths, network.group_widths, strict=True)]

    def read_as(pattern: str, arguments: Sequence[dict[str, int]]) -> bool:
        # The sources of the input's slices, and of the output, do not matter.
        return all(
            t.sources[n - 1 : -1] == make_topology(pattern, t.depth, **each).sources[n - 1 : -1]
            for t, n, each in zip(network.layer_topologies, slices, arguments, strict=True)
        )

    return network.aggregation == "concat" and (
        read_as("windowed", [{"window": n} for n in slices]) or read_as("dense", [{}] * len(slices))
    )


# https://github.com/GroupOfAlchemists/SeqConv, with SeqResNeXt corrected as `seqconv` says: weights
# that the released code has trained would compute something else here.
_SEQCONV_LAYERS: tuple[Rule, ...] = (
    (r"stem_conv", "Init"),
    (r"stem_seqconv", "Head"),
    (r"stem([123])", "Head{:-1}"),
    (r"stem4", "ShrinkingLayer"),
    (r"stage(\d+)/layer(\d+)/seqconv_a", "Stage{}.{:-1}.LayerA"),
    (r"stage(\d+)/layer(\d+)/seqconv_b", "Stage{}.{:-1}.LayerB"),
    (r"downsample(\d+)/extension", "Downsample{}.ExtensionLayer"),
    (r"downsample(\d+)/downsizing", "Downsample{}.ShrinkingLayer"),
    (r"head", "Blender"),
)
_HALVES = {"": "whole", "1": "bottleneck", "2": "transformation"}


def _seqconv(**groups: str) -> Rules:
    """Make the rules from the names of a group, or of its halves, with the group's number."""

    def name(layer: str, group: str | None, part: str, half: str) -> str:
        path = _renamed(layer, _SEQCONV_LAYERS)
        if group:
            path += "." + groups[_HALVES[half]].format(int(group) - 1)
        return f"{path}.{'LinearLayer' if part == 'conv' else 'BatchNormalizationLayer'}"

    rules = (
        (r"(.+?)(?:/groups/layer(\d+))?/(conv|norm)([12]?)", name),
        (r"classifier", "Classifier"),
    )
    return _if(_is_seqconv, rules)


_SMG: tuple[tuple[str, str], ...] = (
    (r"(norm|conv)1", "conv1_1x1.{}"),
    (r"(norm|conv)2", "conv2_3x3.{}"),
    (r"(norm|conv)_3x3", "conv_3x3.{}"),
    (r"(norm|conv)_5x5", "conv_5x5.{}"),
    (r"forget_gate/pool/scores", "global_forget_context"),
    (r"forget_gate/linear([12])", "fc{}"),
    (r"forget_gate/norm", "bn_forget"),
    (r"update_gate/pool_(3x3|5x5)/scores", "global_context{}"),
    (r"update_gate/linear", "fcall"),
    (r"update_gate/norm", "bn_attention"),
    (r"update_gate/head_(3x3|5x5)", "fc{}"),
)


# https://github.com/winycg/HCGNet, where the networks for CIFAR and for ImageNet are written apart.
def _hcgnet(network: HCGNet) -> tuple[Rule, ...]:
    dense = network.aggregation == "concat" and _read_as("dense", network.topologies)
    if not dense or network.gate_activation != "tanh":
        return ()
    block, transition = "HybridBlock", "Transition"
    if network.imagenet_stem:
        block, transition = block.lower(), transition.lower()
    places = (
        (r"stage(\d+)/layer(\d+)/", f"features.{block}{{}}.SMG{{}}."),
        (r"transition(\d+)/", f"features.{transition}{{}}."),
    )
    return (
        (r"stem_conv", "features.conv0"),
        (r"stem_(conv|norm)([123])", "features.{}{:-1}"),
        *((here + part, there + name) for here, there in places for part, name in _SMG),
        (r"head_norm", "features.norm5"),
        (r"classifier", "classifier"),
    )


DIALECTS: dict[type[nn.Module], dict[str, Rules]] = {
    EfficientNet: {
        "torchvision": _if(_pads_symmetrically, _EFFICIENTNET_TORCHVISION),
        "timm": _if(_is_efficientnet, _EFFICIENTNET_TIMM),
    },
    HCGNet: {"reference": _hcgnet},
    ResNet: {
        "torchvision": _if(_is_resnet, _RESNET),
        "timm": _if(lambda network: _is_resnet(network) or _is_res2net(network), _RES2NET),
    },
    SeqResNet: {
        "reference": _seqconv(
            whole="Filters.{}",
            bottleneck="Filters.{}.BottleneckLayer",
            transformation="Filters.{}.TransformationLayer",
        )
    },
    SeqResNeXt: {
        "reference": _seqconv(
            bottleneck="BottleneckLayers.{}", transformation="TransformationLayers.{}"
        )
    },
    SparseNet: {
        "reference": _if(_is_sparsenet, _SPARSENET),
        "torchvision": _if(_is_densenet, _DENSENET),
        "timm": _if(_is_densenet, _DENSENET),
        "torchvision_dotted": _if(_is_densenet, _DENSENET_DOTTED),
    },
}
