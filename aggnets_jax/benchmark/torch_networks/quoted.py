"""Networks that the papers quote from others, without the residual ones."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aggnets_jax import models
from aggnets_jax.benchmark.torch_networks.dense import dense_layer, dual_path, transition
from aggnets_jax.benchmark.torch_networks.parts import (
    Mean,
    NormReLU,
    Stage,
    add,
    concat,
    concatenated,
    conv,
    pre_activated,
    sequence,
)
from aggnets_jax.benchmark.torch_networks.shortcuts import ShortcutStage
from aggnets_jax.layers.learned_groups import GROUPS

POOLS = {
    "max": partial(nn.MaxPool2d, 3, 2, 1),
    "average": partial(nn.AvgPool2d, 3, 2, 1),
    "max_ceil": partial(nn.MaxPool2d, 3, 2, ceil_mode=True),
}


def conv_relu(inputs: int, features: int, size: int) -> nn.Module:
    """Biased convolution-ReLU."""
    return sequence(conv=conv(inputs, features, size, bias=True), relu=nn.ReLU(inplace=True))


def plain_cnn(network: models.plain_cnn.PlainCNN, image_shape: Sequence[int]) -> nn.Module:
    """Stages of biased convolutions, a convolution to the classes, their mean."""
    inputs, layers = image_shape[-1], {}
    for i, (topology, stage) in enumerate(zip(network.topologies, network.stages, strict=True), 1):
        (features, size, padded), *rest = stage.convolutions
        opening = conv(inputs, features, size, bias=True)
        opening.padding = opening.padding if padded else (0, 0)
        layers |= {f"stage{i}_opening": opening, f"stage{i}_relu": nn.ReLU()}
        *read, joined = concatenated(topology.sources, features, [each.features for each in rest])
        units = [conv_relu(n, *each[:2]) for n, each in zip(read, rest, strict=True)]
        layers[f"stage{i}"] = Stage(topology.sources, units, concat)
        inputs = joined
        if stage.reduction == "conv":
            layers[f"stage{i}_reduction"] = conv(joined, features, 3, stride=2, bias=True)
            layers[f"stage{i}_reduction_relu"] = nn.ReLU(inplace=True)
            inputs = features
        elif stage.reduction:
            layers[f"stage{i}_pool"] = POOLS[stage.reduction]()
    to_classes = conv(inputs, network.num_classes, 1, bias=True)
    if network.further_linear:
        classifier = nn.Linear(network.num_classes, network.num_classes)
        return sequence(**layers, class_conv=to_classes, mean=Mean(), classifier=classifier)
    relu = nn.ReLU(inplace=True) if network.final_relu else None
    return sequence(**layers, classifier=to_classes, relu=relu, mean=Mean())


class Inception(nn.Module):
    """1x1, 1x1-3x3, 1x1-3x3-3x3 and max-1x1 beside each other; convolutions with bias, BN, ReLU."""

    def __init__(self, inputs: int, widths: models.googlenet.Widths) -> None:
        super().__init__()
        w = widths
        self.branches = (
            ((1, w.one),),
            ((1, w.reduce_three), (3, w.three)),
            ((1, w.reduce_five), (3, w.five), (3, w.five)),
            ((1, w.pooled),),
        )
        for b, branch in enumerate(self.branches, 1):
            features = inputs
            for n, (size, width) in enumerate(branch, 1):
                self.add_module(f"branch{b}_conv{n}", conv(features, width, size, bias=True))
                self.add_module(f"branch{b}_norm{n}", NormReLU(width))
                features = width

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, the sum of the branches, height, width]."""
        outputs = []
        for b, branch in enumerate(self.branches, 1):
            y = x if b < 4 else F.max_pool2d(x, 3, 1, 1)
            for n in range(1, len(branch) + 1):
                y = getattr(self, f"branch{b}_norm{n}")(getattr(self, f"branch{b}_conv{n}")(y))
            outputs.append(y)
        return concat(outputs)


def googlenet(network: models.googlenet.GoogLeNet, image_shape: Sequence[int]) -> nn.Module:
    """Stem conv3x3(192), stages of inception modules with max pooling between them, classifier."""
    features = 192
    layers = {"stem_conv": conv(image_shape[-1], features, 3, bias=True)}
    layers["stem_norm"] = NormReLU(features)
    stages = zip(network.topologies, models.googlenet.STAGES, strict=True)
    for i, (topology, rows) in enumerate(stages, 1):
        if i > 1:
            layers[f"pool{i}"] = POOLS["max"]()
        widths = [row.one + row.three + row.five + row.pooled for row in rows]
        *read, features = concatenated(topology.sources, features, widths)
        units = [Inception(n, row) for n, row in zip(read, rows, strict=True)]
        layers[f"stage{i}"] = Stage(topology.sources, units, concat)
    classifier = nn.Linear(features, network.num_classes)
    return sequence(**layers, mean=Mean(), classifier=classifier)


def inverted_residual(
    inputs: int, features: int, expansion: int, stride: int, activation: type[nn.Module]
) -> nn.Module:
    """1x1-BN-act (if it expands), depthwise3x3(stride)-BN-act, 1x1-BN."""
    width, layers = expansion * inputs, {}
    if expansion > 1:
        layers = {"expand_conv": conv(inputs, width, 1), "expand_norm": nn.BatchNorm2d(width)}
        layers["expand_activation"] = activation()
    return sequence(
        **layers,
        depthwise_conv=conv(width, width, 3, stride=stride, groups=width),
        depthwise_norm=nn.BatchNorm2d(width),
        depthwise_activation=activation(),
        project_conv=conv(width, features, 1),
        project_norm=nn.BatchNorm2d(features),
    )


def mobilenet(network: models.mobilenet.MobileNetV2, image_shape: Sequence[int]) -> nn.Module:
    """Stem conv3x3(32), stages of inverted residuals, conv1x1(1280), average, classifier."""
    features = 32
    layers = {"stem_conv": conv(image_shape[-1], features, 3)}
    layers |= {"stem_norm": nn.BatchNorm2d(features), "stem_relu": nn.ReLU6()}
    rows = zip(models.mobilenet.ROWS, network.topologies, strict=True)
    for i, (row, topology) in enumerate(rows, 1):
        block = partial(inverted_residual, expansion=row.expansion, activation=nn.ReLU6)
        layers[f"stage{i}_opening"] = block(features, row.features, stride=row.stride)
        features = row.features
        blocks = [block(features, features, stride=1) for _ in range(topology.depth)]
        layers[f"stage{i}"] = ShortcutStage(topology.sources, blocks)
    return sequence(
        **layers,
        head_conv=conv(features, 1280, 1),
        head_norm=nn.BatchNorm2d(1280),
        head_relu=nn.ReLU6(),
        mean=Mean(),
        classifier=nn.Linear(1280, network.num_classes),
    )


def shuffle(x: Tensor) -> Tensor:
    """Deal the two halves of the channels out in turn."""
    return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


def shuffle_branch(inputs: int, features: int, stride: int, expands: bool) -> nn.Module:
    """[1x1-BN-ReLU,] depthwise3x3(stride)-BN, 1x1-BN-ReLU."""
    layers = {}
    if expands:
        layers = {"expand_conv": conv(inputs, features, 1), "expand_norm": NormReLU(features)}
        inputs = features
    return sequence(
        **layers,
        depthwise_conv=conv(inputs, inputs, 3, stride=stride, groups=inputs),
        depthwise_norm=nn.BatchNorm2d(inputs),
        project_conv=conv(inputs, features, 1),
        project_norm=NormReLU(features),
    )


class ShuffleUnit(nn.Module):
    """Branches on the halves of the channels, or at stride 2 on all of them, and a shuffle."""

    def __init__(self, inputs: int, features: int, stride: int) -> None:
        super().__init__()
        half = features // 2
        self.left = shuffle_branch(inputs, half, stride, False) if stride > 1 else None
        self.right = shuffle_branch(inputs if stride > 1 else half, half, stride, True)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, features, height / stride, ...]."""
        left, right = x.chunk(2, dim=1) if self.left is None else (self.left(x), x)
        return shuffle(concat([left, self.right(right)]))


def shufflenet(network: models.shufflenet.ShuffleNetV2, image_shape: Sequence[int]) -> nn.Module:
    """Stem conv3x3(24), stages of shuffle units, conv1x1(1024), average, classifier."""
    features = 24
    layers = {"stem_conv": conv(image_shape[-1], features, 3), "stem_norm": NormReLU(features)}
    for i, (topology, width) in enumerate(zip(network.topologies, network.widths, strict=True), 1):
        layers[f"stage{i}_opening"] = ShuffleUnit(features, width, 2)
        units = [ShuffleUnit(width, width, 1) for _ in range(topology.depth)]
        layers[f"stage{i}"] = Stage(topology.sources, units, add)
        features = width
    layers |= {"head_conv": conv(features, 1024, 1), "head_norm": NormReLU(1024)}
    return sequence(**layers, mean=Mean(), classifier=nn.Linear(1024, network.num_classes))


class FPNASBlock(nn.Module):
    """An inverted residual on all channels or on the second half, with or without a shortcut."""

    def __init__(self, inputs: int, row: models.fpnasnet.Row) -> None:
        super().__init__()
        self.passing, self.shortcut = inputs // 2 if row.split else 0, row.shortcut
        left, stride = self.passing, row.stride
        inputs, features = inputs - left, row.features - left
        self.branch = inverted_residual(inputs, features, row.expansion, stride, nn.ReLU)
        if row.shortcut and (stride > 1 or inputs != features):
            projection = conv(inputs, features, 1, stride=stride)
            self.projection = sequence(conv=projection, norm=nn.BatchNorm2d(features))
        if left and stride > 1:
            self.left_depthwise_conv = conv(left, left, 3, stride=stride, groups=left)
            self.left_depthwise_norm = NormReLU(left)
            self.left_conv = conv(left, left, 1)
            self.left_norm = nn.BatchNorm2d(left)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, features, height / stride, ...]."""
        left, x = x[:, : self.passing], x[:, self.passing :]
        y = self.branch(x)
        if self.shortcut:
            y = y + (self.projection(x) if hasattr(self, "projection") else x)
        if not self.passing:
            return y
        if hasattr(self, "left_conv"):
            left = self.left_depthwise_norm(self.left_depthwise_conv(left))
            left = self.left_norm(self.left_conv(left))
        return shuffle(concat([left, y]))


def fpnasnet(network: models.fpnasnet.FPNASNet, image_shape: Sequence[int]) -> nn.Module:
    """Stem, stages of FPNAS blocks, conv1x1(1280), average, classifier."""
    features = 24
    layers = {
        "stem_conv1": conv(image_shape[-1], 34, 3, stride=2),
        "stem_norm1": NormReLU(34),
        "stem_conv2": conv(34, 34, 3, groups=34),
        "stem_norm2": NormReLU(34),
        "stem_conv3": conv(34, features, 1),
        "stem_norm3": nn.BatchNorm2d(features),
    }
    stages = zip(models.fpnasnet.STAGES, network.topologies, strict=True)
    for i, (rows, topology) in enumerate(stages, 1):
        layers[f"stage{i}_opening"] = FPNASBlock(features, rows[0])
        features = rows[0].features
        units = [FPNASBlock(features, row) for row in rows[1:]]
        layers[f"stage{i}"] = Stage(topology.sources, units, add)
    layers |= {"head_conv": conv(features, 1280, 1), "head_norm": NormReLU(1280)}
    return sequence(**layers, mean=Mean(), classifier=nn.Linear(1280, network.num_classes))


def condensenet(network: models.condensenet.CondenseNet, image_shape: Sequence[int]) -> nn.Module:
    """Stem, stages with average pooling between them, BN-ReLU, average, classifier."""
    features = 2 * network.growth_rates[0]
    layers = {"stem_conv": conv(image_shape[-1], features, 3)}
    stages = zip(network.topologies, network.growth_rates, strict=True)
    for i, (topology, k) in enumerate(stages, 1):
        if i > 1:
            layers[f"pool{i}"] = nn.AvgPool2d(2)
        *read, features = concatenated(topology.sources, features, [k] * topology.depth)
        units = [
            sequence(
                norm1=NormReLU(n),
                learned_conv=conv(n, 4 * k, 1),
                norm2=NormReLU(4 * k),
                conv2=conv(4 * k, k, 3, groups=GROUPS),
            )
            for n in read
        ]
        layers[f"stage{i}"] = Stage(topology.sources, units, concat)
    classifier = nn.Linear(features, network.num_classes)
    return sequence(**layers, head_norm=NormReLU(features), mean=Mean(), classifier=classifier)


class LogDenseNetV2(nn.Module):
    """Stem, stages whose input and output are halved side by side, BN-ReLU, average, classifier."""

    def __init__(
        self, network: models.log_densenet_v2.LogDenseNetV2, image_shape: Sequence[int]
    ) -> None:
        super().__init__()
        k, self.stages = network.growth_rate, network.stages
        features = 2 * k
        self.stem_conv = conv(image_shape[-1], features, 3)
        for i, topology in enumerate(network.topologies, 1):
            *read, joined = concatenated(topology.sources, features, [k] * topology.depth)
            units = [dense_layer(n, k, bottleneck=False) for n in read]
            self.add_module(f"stage{i}", Stage(topology.sources, units, concat))
            if i < self.stages:
                self.add_module(f"transition{i}_old", transition(features, features))
                self.add_module(f"transition{i}_new", transition(joined, network.compressed))
                features += network.compressed
        self.head_norm = NormReLU(joined)
        self.classifier = nn.Linear(joined, network.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] -> [batch, classes]."""
        x = self.stem_conv(x)
        for i in range(1, self.stages + 1):
            outputs = getattr(self, f"stage{i}")(x)
            if i < self.stages:
                old = getattr(self, f"transition{i}_old")(x)
                x = torch.cat([old, getattr(self, f"transition{i}_new")(outputs)], dim=1)
        return self.classifier(self.head_norm(outputs).mean((2, 3)))


class WideResidual(nn.Module):
    """BN-ReLU-conv3x3(stride)-BN-ReLU-conv3x3, and conv1x1(stride) of the first BN-ReLU."""

    def __init__(self, inputs: int, features: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = NormReLU(inputs), NormReLU(features)
        self.conv1 = conv(inputs, features, 3, stride=stride)
        self.conv2 = conv(features, features, 3)
        self.projection = conv(inputs, features, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, features, height / stride, ...]."""
        read = self.norm1(x)
        return self.conv2(self.norm2(self.conv1(read))) + self.projection(read)


class WideOpening(nn.Module):
    """A wide residual block beside a plain 3x3 convolution of the same input."""

    def __init__(self, inputs: int, residual: int, dense: int, stride: int) -> None:
        super().__init__()
        self.residual = WideResidual(inputs, residual, stride)
        self.dense = conv(inputs, dense, 3, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, residual + dense, height / stride, ...]."""
        return torch.cat([self.residual(x), self.dense(x)], dim=1)


def wide_dpn(network: models.wide_dpn.WideDPN, image_shape: Sequence[int]) -> nn.Module:
    """Stem conv3x3(16), three stages of dual paths, BN-ReLU, average, classifier."""
    features = 16
    layers = {"stem_conv": conv(image_shape[-1], features, 3)}
    for i, topology in enumerate(network.topologies, 1):
        width, stride = 16 * network.widening * 2 ** (i - 1), 1 if i == 1 else 2
        step = width // 10
        layers[f"stage{i}_opening"] = WideOpening(features, width, 2 * step, stride)
        *read, dense = concatenated(topology.sources, 2 * step, [step] * topology.depth)
        units = [
            pre_activated(conv(width + n, width + step, 3), conv(width + step, width + step, 3))
            for n in read
        ]
        layers[f"stage{i}"] = Stage(topology.sources, units, dual_path(width))
        features = width + dense
    classifier = nn.Linear(features, network.num_classes)
    return sequence(**layers, head_norm=NormReLU(features), mean=Mean(), classifier=classifier)
