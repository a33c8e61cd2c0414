"""Networks that concatenate: SparseNet, MixNet, dual path networks, HarDNet and HCGNet."""

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from aggnets_jax import models
from aggnets_jax.benchmark.torch_networks.parts import (
    Aggregate,
    Mean,
    NormReLU,
    Stage,
    concat,
    concatenated,
    conv,
    imagenet_stem,
    pre_activated,
    sequence,
)
from aggnets_jax.layers import common


def dense_layer(inputs: int, k: int, *, bottleneck: bool, groups: int = 1) -> nn.Module:
    """BN-ReLU-conv3x3(k), or BN-ReLU-conv1x1(4k)-BN-ReLU-conv3x3(k)."""
    if not bottleneck:
        return pre_activated(conv(inputs, k, 3, groups=groups))
    return pre_activated(conv(inputs, 4 * k, 1), conv(4 * k, k, 3, groups=groups))


def transition(inputs: int, features: int) -> nn.Module:
    """BN-ReLU-conv1x1-average pool 2x2."""
    return sequence(norm=NormReLU(inputs), conv=conv(inputs, features, 1), pool=nn.AvgPool2d(2))


def sparsenet(network: models.sparsenet.SparseNet, image_shape: Sequence[int]) -> nn.Module:
    """Stem, stages with transitions between them, BN-ReLU, pooling, classifier."""
    *sides, channels = image_shape
    features = network.stem_features
    layers = {"stem_conv": conv(channels, features, 3)}
    if network.imagenet_stem:
        layers = imagenet_stem(channels, features)
        sides = [-(-side // 4) for side in sides]
    for i, (topology, k) in enumerate(
        zip(network.topologies, network.growth_rates, strict=True), 1
    ):
        if i > 1:
            inputs, features = features, common.compressed(features, network.compression)
            layers[f"transition{i - 1}"] = transition(inputs, features)
        *inputs, features = concatenated(topology.sources, features, [k] * topology.depth)
        kind = {"bottleneck": network.bottleneck, "groups": network.groups}
        units = [dense_layer(n, k, **kind) for n in inputs]  # type: ignore[attr-defined]
        layers[f"stage{i}"] = Stage(topology.sources, units, concat)
    layers["head_norm"] = NormReLU(features)
    if network.pool == "flatten":  # after one more halving than there are transitions
        layers |= {"head_pool": nn.AvgPool2d(2), "flatten": nn.Flatten()}
        features *= math.prod(side // 2 ** len(network.topologies) for side in sides)
    else:
        layers["mean"] = Mean()
    return sequence(**layers, classifier=nn.Linear(features, network.num_classes))


def mixed(overlap: int) -> Aggregate:
    """Return the concatenation that adds the given number of channels of neighbouring maps."""

    def join(left: Tensor, right: Tensor) -> Tensor:
        kept = left.shape[1] - overlap
        both = left[:, kept:] + right[:, :overlap]
        return torch.cat([left[:, :kept], both, right[:, overlap:]], dim=1)

    return functools.partial(functools.reduce, join)


class MixedLayer(nn.Module):
    """k1 channels to add to the last channels of the input, and k2 channels to append."""

    def __init__(self, inputs: int, k1: int, k2: int) -> None:
        super().__init__()
        for name, k in (("inner", k1), ("outer", k2)):
            if k:
                self.add_module(name, dense_layer(inputs, k, bottleneck=True))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, k1 + k2, height, width]."""
        return concat([bottleneck(x) for bottleneck in self.children()])


def mixnet(network: models.mixnet.MixNet, image_shape: Sequence[int]) -> nn.Module:
    """Stem, stages with transitions between them, BN-ReLU, average, classifier."""
    channels, features = image_shape[-1], network.stem_features
    k1, k2 = network.k1, network.k2
    layers = {"stem_conv": conv(channels, features, 3)}
    if network.imagenet_stem:
        layers = imagenet_stem(channels, features)
    for i, topology in enumerate(network.topologies, 1):
        if i > 1:
            inputs = features
            features = common.compressed(inputs, network.compression, least=k1)
            layers[f"transition{i - 1}"] = transition(inputs, features)
        widths = [features, *[k1 + k2] * topology.depth]
        *inputs, features = (
            sum(widths[source] - k1 for source in read) + k1 for read in topology.sources
        )
        units = [MixedLayer(n, k1, k2) for n in inputs]  # type: ignore[attr-defined]
        layers[f"stage{i}"] = Stage(topology.sources, units, mixed(k1))
    classifier = nn.Linear(features, network.num_classes)
    return sequence(**layers, head_norm=NormReLU(features), mean=Mean(), classifier=classifier)


_dpn_norm = functools.partial(NormReLU, eps=1e-3)


def dual_path(residual: int) -> Aggregate:
    """Return the aggregate that adds the first channels and concatenates the rest."""

    def aggregate(maps: Sequence[Tensor]) -> Tensor:
        if len(maps) == 1:
            return maps[0]
        added = functools.reduce(torch.add, (x[:, :residual] for x in maps))
        return torch.cat([added, *(x[:, residual:] for x in maps)], dim=1)

    return aggregate


def dpn_unit(inputs: int, width: int, features: int, stride: int, groups: int) -> nn.Module:
    """BN-ReLU-conv1x1(w)-BN-ReLU-conv3x3(w, stride, groups)-BN-ReLU-conv1x1(features)."""
    return pre_activated(
        conv(inputs, width, 1),
        conv(width, width, 3, stride=stride, groups=groups),
        conv(width, features, 1),
        norm=_dpn_norm,
    )


def dpn(network: models.dpn.DPN, image_shape: Sequence[int]) -> nn.Module:
    """Stem, stages of dual paths, BN-activation, average, classifier."""
    features = network.stem_features
    layers = imagenet_stem(image_shape[-1], features, _dpn_norm, network.stem_kernel)
    for i, (topology, k) in enumerate(zip(network.topologies, network.growth_rates, strict=True)):
        residual, width = network.residual * 2**i, network.width * 2**i
        stride = 1 if i == 0 else 2
        projection = sequence(
            norm=_dpn_norm(features), conv=conv(features, residual + 2 * k, 1, stride=stride)
        )
        # Layer 1 reads the input of the stage without the projection.
        widths = concatenated(topology.sources, 2 * k, [k] * topology.depth)
        *inputs, joined = [features, *(residual + dense for dense in widths[1:])]
        units = [
            dpn_unit(n, width, residual + k, stride if j == 0 else 1, network.groups)
            for j, n in enumerate(inputs)
        ]
        layers[f"stage{i + 1}"] = Stage(topology.sources, units, dual_path(residual), projection)
        features = joined
    elu = network.head_activation == "elu"
    return sequence(
        **layers,
        head_norm=nn.BatchNorm2d(features, eps=1e-3),
        head_activation=nn.ELU(inplace=True) if elu else nn.ReLU(inplace=True),
        mean=Mean(),
        classifier=nn.Linear(features, network.num_classes),
    )


def conv_norm(inputs: int, features: int, kernel_size: int, *, stride: int = 1) -> nn.Module:
    """Convolution-BN-ReLU6."""
    return sequence(
        conv=conv(inputs, features, kernel_size, stride=stride),
        norm=nn.BatchNorm2d(features),
        relu=nn.ReLU6(inplace=True),
    )


def depthwise(features: int, *, stride: int = 1) -> nn.Module:
    """Depthwise convolution 3x3-BN."""
    return sequence(
        conv=conv(features, features, 3, stride=stride, groups=features),
        norm=nn.BatchNorm2d(features),
    )


def hardnet_unit(network: models.hardnet.HarDNet, inputs: int, features: int) -> nn.Module:
    """Conv3x3-BN-ReLU6, or conv1x1-BN-ReLU6 and a depthwise convolution."""
    if network.depthwise:
        return sequence(pointwise=conv_norm(inputs, features, 1), depthwise=depthwise(features))
    return conv_norm(inputs, features, 3)


def halving(network: models.hardnet.HarDNet, features: int, window: int) -> nn.Module:
    """Return the layer that halves the resolution."""
    if network.depthwise:
        return depthwise(features, stride=2)
    return nn.MaxPool2d(window, stride=2, padding=(window - 1) // 2)


def hardnet(network: models.hardnet.HarDNet, image_shape: Sequence[int]) -> nn.Module:
    """Stem, blocks each followed by conv1x1-BN-ReLU6 and some by a halving, average, classifier."""
    first, features = network.stem_features
    layers = {
        "stem1": conv_norm(image_shape[-1], first, 3, stride=2),
        "stem2": conv_norm(first, features, 1 if network.depthwise else 3),
        "stem_down": halving(network, features, 3),
    }
    for i, (topology, k) in enumerate(zip(network.topologies, network.growth_rates, strict=True)):
        numbers = range(1, topology.depth + 1)
        widths = [models.hardnet.layer_width(n, k, network.multiplier) for n in numbers]
        *inputs, joined = concatenated(topology.sources, features, widths)
        units = [hardnet_unit(network, n, width) for n, width in zip(inputs, widths, strict=True)]
        features = network.features[i]
        layers[f"stage{i + 1}"] = Stage(topology.sources, units, concat)
        layers[f"transition{i + 1}"] = conv_norm(joined, features, 1)
        if network.downsampled[i]:
            layers[f"down{i + 1}"] = halving(network, features, 2)
    classifier = nn.Linear(features, network.num_classes)
    return sequence(**layers, mean=Mean(), classifier=classifier)


class AttentionPool(nn.Module):
    """Mean over positions, weighted by the softmax of one score for each position."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.scores = conv(features, 1, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, features, height, width] -> [batch, features, 1, 1]."""
        weights = self.scores(x).flatten(2).softmax(-1)
        return (x.flatten(2) @ weights.transpose(1, 2)).unsqueeze(-1)


GATE_ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}


def forget_gate(features: int, hidden: int, activation: str) -> nn.Module:
    """sigmoid(W_2 tanh(BN(W_1 P(X)))), or with a ReLU."""
    return sequence(
        pool=AttentionPool(features),
        linear1=conv(features, hidden, 1, bias=True),
        norm=nn.BatchNorm2d(hidden),
        activation=GATE_ACTIVATIONS[activation](),
        linear2=conv(hidden, features, 1, bias=True),
        sigmoid=nn.Sigmoid(),
    )


class UpdateGate(nn.Module):
    """u P(A) + (1 - u) P(B), with u from a softmax over two heads on both."""

    def __init__(self, features: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.activation = GATE_ACTIVATIONS[activation]()
        self.pool_3x3 = AttentionPool(features)
        self.pool_5x5 = AttentionPool(features)
        self.linear = conv(2 * features, hidden, 1, bias=True)
        self.norm = nn.BatchNorm2d(hidden)
        self.head_3x3 = conv(hidden, features, 1, bias=True)
        self.head_5x5 = conv(hidden, features, 1, bias=True)

    def forward(self, x_3x3: Tensor, x_5x5: Tensor) -> Tensor:
        """[batch, features, height, width] each -> [batch, features, 1, 1]."""
        z_3x3, z_5x5 = self.pool_3x3(x_3x3), self.pool_5x5(x_5x5)
        h = self.activation(self.norm(self.linear(torch.cat([z_3x3, z_5x5], dim=1))))
        # The softmax of two values is a sigmoid of their difference.
        u = torch.sigmoid(self.head_3x3(h) - self.head_5x5(h))
        return torch.lerp(z_5x5, z_3x3, u)


class SMG(nn.Module):
    """Squeeze cell, a plain and a dilated depthwise convolution of its output, gates."""

    def __init__(
        self,
        inputs: int,
        features: int,
        width: int,
        *,
        groups: int,
        stride: int,
        reductions: tuple[int, int],
        activation: str,
    ) -> None:
        super().__init__()
        self.norm1 = NormReLU(inputs)
        self.conv1 = conv(inputs, width, 1)
        self.norm2 = NormReLU(width)
        self.conv2 = conv(width, features, 3, stride=stride, groups=groups)
        self.norm_3x3 = NormReLU(features)
        self.conv_3x3 = conv(features, features, 3, groups=features)
        self.norm_5x5 = NormReLU(features)
        self.conv_5x5 = conv(features, features, 3, groups=features, dilation=2)
        forget, update = reductions
        self.forget_gate = forget_gate(features, features // forget, activation)
        self.update_gate = UpdateGate(features, 2 * features // update, activation)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, features, height / stride, ...]."""
        x = self.conv2(self.norm2(self.conv1(self.norm1(x))))
        x_3x3 = self.conv_3x3(self.norm_3x3(x))
        x_5x5 = self.conv_5x5(self.norm_5x5(x))
        return torch.addcmul(self.update_gate(x_3x3, x_5x5), x, self.forget_gate(x))


def hcgnet_stem(network: models.hcgnet.HCGNet, channels: int) -> dict[str, nn.Module]:
    """Return the layers of the stem."""
    features = network.stem_features
    if not network.imagenet_stem:
        return {"stem_conv": conv(channels, features, 3)}
    layers, widths = {}, (channels, features // 2, features // 2, features)
    for i in (1, 2, 3):
        stride = 2 if i == 1 else 1
        layers[f"stem_conv{i}"] = conv(widths[i - 1], widths[i], 3, stride=stride)
        layers[f"stem_norm{i}"] = NormReLU(widths[i])
    return layers | {"stem_pool": nn.MaxPool2d(3, stride=2, padding=1)}


def hcgnet(network: models.hcgnet.HCGNet, image_shape: Sequence[int]) -> nn.Module:
    """Stem, hybrid blocks with transitions between them, BN-ReLU, average, classifier."""

    def smg(position: int) -> Callable[..., SMG]:
        reductions = network.forget_reductions[position], network.update_reductions[position]
        return functools.partial(SMG, reductions=reductions, activation=network.gate_activation)

    layers, features = hcgnet_stem(network, image_shape[-1]), network.stem_features
    for i, (topology, k) in enumerate(
        zip(network.topologies, network.growth_rates, strict=True), 1
    ):
        if i > 1:
            less, width = network.transition_widths(features)
            layers[f"transition{i - 1}"] = smg(1)(features, less, width, groups=1, stride=2)
            features = less
        *inputs, features = concatenated(topology.sources, features, [k] * topology.depth)
        shape = {"groups": network.groups, "stride": 1}
        units = [smg(0)(n, k, network.width(k), **shape) for n in inputs]
        layers[f"stage{i}"] = Stage(topology.sources, units, concat)
    classifier = nn.Linear(features, network.num_classes)
    return sequence(**layers, head_norm=NormReLU(features), mean=Mean(), classifier=classifier)
