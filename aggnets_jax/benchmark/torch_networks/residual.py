"""Networks that add or average: residual networks of all kinds, highway networks and FractalNet."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aggnets_jax import models
from aggnets_jax.benchmark.torch_networks.blocks import BLOCKS, micro_dense_block, output_features
from aggnets_jax.benchmark.torch_networks.parts import (
    Mean,
    NormReLU,
    PaddedSequence,
    Stage,
    add,
    conv,
    imagenet_stem,
    pad_channels,
    padded_add,
    pre_activated,
    sequence,
)
from aggnets_jax.benchmark.torch_networks.shortcuts import InnerShortcut, ShortcutStage
from aggnets_jax.connectivity.patterns import Sources


class ResNet(nn.Sequential):
    """A chain of layers, with a shortcut and a ReLU after each layer `stage{i}_opening`.

    The shortcut is the layer `stage{i}_projection` if there is one. Else it takes every n-th
    position of the input, where the opening has the stride n, and appends channels of zeros.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] -> [batch, classes]."""
        for name, layer in self.named_children():
            if name.endswith("_projection"):
                continue
            y = layer(x)
            if name.endswith("_opening"):
                projection = getattr(self, name.replace("_opening", "_projection"), None)
                y = F.relu(y + _shortcut(x, y, projection), inplace=True)
            x = y
        return x


def _shortcut(x: Tensor, residual: Tensor, projection: nn.Module | None) -> Tensor:
    if projection is not None:
        return projection(x)
    if x.shape == residual.shape:
        return x
    stride = -(-x.shape[2] // residual.shape[2])
    return pad_channels(x[:, :, ::stride, ::stride], residual.shape[1])


def resnet(network: models.resnet.ResNet, image_shape: Sequence[int]) -> nn.Module:
    """Stem, stages opened by a block with a projected or padded shortcut, average, classifier."""
    shortcuts, channels, features = network.shortcuts, image_shape[-1], network.width
    block = partial(BLOCKS[network.block], attention=network.attention, **network.block_options)
    if shortcuts.inner:
        inner = partial(InnerShortcut, norm=shortcuts.norm, weighted=shortcuts.weighted)
        block = partial(block, inner_shortcut=inner)
    layers = {"stem_conv": conv(channels, features, 3), "stem_norm": NormReLU(features)}
    if network.imagenet_stem:
        layers = imagenet_stem(channels, features)
    for i, topology in enumerate(network.shortcut_topologies, 1):
        width, stride = network.width * 2 ** (i - 1), 1 if i == 1 else 2
        inputs = features
        features = output_features(network.block, width, **network.block_options)
        layers[f"stage{i}_opening"] = block(inputs, width, stride)
        if not network.padded and (stride > 1 or inputs != features):
            layers[f"stage{i}_projection"] = sequence(
                conv=conv(inputs, features, 1, stride=stride), norm=nn.BatchNorm2d(features)
            )
        blocks = [block(features, width, 1) for _ in range(topology.depth)]
        layers[f"stage{i}"] = ShortcutStage(
            topology.sources, blocks, shortcuts=shortcuts, features=features, rectified=True
        )
    layers |= {"mean": Mean(), "classifier": nn.Linear(features, network.num_classes)}
    return ResNet(OrderedDict(layers))


def bottleneck(inputs: int, width: int, stride: int) -> nn.Module:
    """BN-ReLU-conv1x1(w)-BN-ReLU-conv3x3(w, stride)-BN-ReLU-conv1x1(4w)."""
    return pre_activated(
        conv(inputs, width, 1), conv(width, width, 3, stride=stride), conv(width, 4 * width, 1)
    )


def preact_resnet(
    network: models.preact_resnet.PreActResNet, image_shape: Sequence[int]
) -> nn.Module:
    """Stem conv3x3(16), three stages, BN-ReLU, average, classifier."""
    features = 16
    layers = {"stem_conv": conv(image_shape[-1], features, 3)}
    for i, topology in enumerate(network.topologies, 1):
        width, stride = 16 * 2 ** (i - 1), 1 if i == 1 else 2
        units = [bottleneck(features, width, stride)]
        units += [bottleneck(4 * width, width, 1) for _ in range(topology.depth - 1)]
        projection = conv(features, 4 * width, 1, stride=stride)
        layers[f"stage{i}"] = Stage(topology.sources, units, add, projection)
        features = 4 * width
    classifier = nn.Linear(features, network.num_classes)
    return sequence(**layers, head_norm=NormReLU(features), mean=Mean(), classifier=classifier)


class OpeningBlock(nn.Module):
    """BN-ReLU-conv3x3(width, stride)-BN-ReLU-conv3x3(width), and the shortcut of the first block.

    Where the shape changes, the shortcut is a 1x1 convolution of the first BN-ReLU.
    """

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1 = NormReLU(inputs)
        self.conv1 = conv(inputs, width, 3, stride=stride)
        self.norm2 = NormReLU(width)
        self.conv2 = conv(width, width, 3)
        projected = stride > 1 or inputs != width
        self.projection = conv(inputs, width, 1, stride=stride) if projected else None

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, width, height / stride, ...]."""
        activated = self.norm1(x)
        residual = self.conv2(self.norm2(self.conv1(activated)))
        return residual + (x if self.projection is None else self.projection(activated))


def wide_resnet(network: models.wide_resnet.WideResNet, image_shape: Sequence[int]) -> nn.Module:
    """Stem conv3x3(16), three stages, BN-ReLU, average, classifier."""
    features = 16
    layers = {"stem_conv": conv(image_shape[-1], features, 3)}
    for i, topology in enumerate(network.topologies, 1):
        width, stride = 16 * network.widening * 2 ** (i - 1), 1 if i == 1 else 2
        layers[f"stage{i}_opening"] = OpeningBlock(features, width, stride)
        blocks = [
            pre_activated(conv(width, width, 3), conv(width, width, 3))
            for _ in range(topology.depth)
        ]
        layers[f"stage{i}"] = ShortcutStage(
            topology.sources, blocks, shortcuts=network.shortcuts, features=width
        )
        features = width
    classifier = nn.Linear(features, network.num_classes)
    return sequence(**layers, head_norm=NormReLU(features), mean=Mean(), classifier=classifier)


def pyramid_block(*convs: nn.Conv2d) -> nn.Module:
    """BN-conv-BN-ReLU-conv-...-BN: no ReLU before the first convolution."""
    layers = {}
    for i, each in enumerate(convs, 1):
        norm = nn.BatchNorm2d if i == 1 else NormReLU
        layers |= {f"norm{i}": norm(each.in_channels), f"conv{i}": each}
    last = nn.BatchNorm2d(convs[-1].out_channels)
    return sequence(**layers, **{f"norm{len(convs) + 1}": last})


def pyramidnet_unit(
    block: models.pyramidnet.Block, inputs: int, features: int, stride: int
) -> nn.Module:
    """Return a block of the network with the given channels."""
    if isinstance(block, models.pyramidnet.PyramidBlock):
        if not block.bottleneck:
            return pyramid_block(
                conv(inputs, features, 3, stride=stride), conv(features, features, 3)
            )
        width = features // 4
        return pyramid_block(
            conv(inputs, width, 1), conv(width, width, 3, stride=stride), conv(width, features, 1)
        )
    return micro_dense_block(inputs, features, stride, block)


def pyramidnet(network: models.pyramidnet.PyramidNet, image_shape: Sequence[int]) -> nn.Module:
    """Stem, stages of ever wider blocks with padded shortcuts, average, classifier."""
    channels, features = image_shape[-1], [network.stem_features, *network.widths]
    openings, block = [], 0
    layers = {
        "stem_conv": conv(channels, features[0], 3),
        "stem_norm": nn.BatchNorm2d(features[0]),
    }
    if network.imagenet_stem:
        layers = imagenet_stem(channels, features[0])

    def next_block(stride: int) -> nn.Module:
        nonlocal block
        block += 1
        return pyramidnet_unit(network.block, features[block - 1], features[block], stride)

    for i, topology in enumerate(network.shortcut_topologies, 1):
        if i > 1:
            openings.append(f"stage{i}_opening")
            layers[f"stage{i}_opening"] = next_block(2)
        blocks = [next_block(1) for _ in range(topology.depth)]
        layers[f"stage{i}"] = ShortcutStage(topology.sources, blocks, aggregate=padded_add)
    layers["head_norm"] = NormReLU(features[-1])
    layers |= {"mean": Mean(), "classifier": nn.Linear(features[-1], network.num_classes)}
    return PaddedSequence(layers, openings)


class ChannelScale(nn.Module):
    """Channels scaled by sigmoid(1x1(swish(1x1(mean))))."""

    def __init__(self, features: int, reduced: int) -> None:
        super().__init__()
        self.reduce = conv(features, reduced, 1, bias=True)
        self.expand = conv(reduced, features, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, features, height, width] -> the same shape."""
        gate = F.silu(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * self.expand(gate).sigmoid()


def mb_conv(inputs: int, features: int, stride: int, expansion: int, kernel_size: int) -> nn.Module:
    """1x1-BN-swish, kxk depthwise-BN-swish, squeeze-excite, 1x1-BN."""
    width, layers = expansion * inputs, {}
    if expansion > 1:
        layers["expand_conv"] = conv(inputs, width, 1)
        layers["expand_norm"] = nn.BatchNorm2d(width)
        layers["expand_swish"] = nn.SiLU()
    return sequence(
        **layers,
        depthwise_conv=conv(width, width, kernel_size, stride=stride, groups=width),
        depthwise_norm=nn.BatchNorm2d(width),
        depthwise_swish=nn.SiLU(),
        squeeze_excite=ChannelScale(width, max(1, inputs // 4)),
        project_conv=conv(width, features, 1),
        project_norm=nn.BatchNorm2d(features),
    )


def efficientnet(
    network: models.efficientnet.EfficientNet, image_shape: Sequence[int]
) -> nn.Module:
    """Stem conv3x3/2(32), seven stages, conv1x1(1280), average, classifier."""
    features, first, openings = 32, 1, []
    layers = {
        "stem_conv": conv(image_shape[-1], features, 3, stride=2),
        "stem_norm": nn.BatchNorm2d(features),
        "stem_swish": nn.SiLU(),
    }

    def block(number: int, inputs: int, stride: int) -> nn.Module:
        if number in network.replaced:
            return micro_dense_block(inputs, row.features, stride, network.replacement)
        return mb_conv(inputs, row.features, stride, row.expansion, row.kernel_size)

    for i, (row, topology) in enumerate(
        zip(models.efficientnet.B0_STAGES, network.shortcut_topologies, strict=True), 1
    ):
        if first in network.replaced:
            openings.append(f"stage{i}_opening")
        layers[f"stage{i}_opening"] = block(first, features, row.stride)
        features = row.features
        blocks = [block(first + n, features, 1) for n in range(1, topology.depth + 1)]
        layers[f"stage{i}"] = ShortcutStage(topology.sources, blocks)
        first += row.blocks
    layers |= {
        "head_conv": conv(features, 1280, 1),
        "head_norm": nn.BatchNorm2d(1280),
        "head_swish": nn.SiLU(),
        "mean": Mean(),
        "classifier": nn.Linear(1280, network.num_classes),
    }
    return PaddedSequence(layers, openings)


class HighwayLayer(nn.Module):
    """T H(x) + (1 - T) shortcut."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.transform = conv(features, features, 3, bias=True)
        self.gate = conv(features, features, 3, bias=True)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """[batch, features, height, width] each -> the same shape."""
        transformed = F.relu(self.transform(x), inplace=True)
        return torch.lerp(shortcut, transformed, self.gate(x).sigmoid())


class HighwayStage(nn.Module):
    """Highway layers; the shortcut of each is the sum of its sources."""

    def __init__(self, sources: Sources, features: int) -> None:
        super().__init__()
        self.sources = sources[:-1]
        for number in range(1, len(sources)):
            self.add_module(f"layer{number}", HighwayLayer(features))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, features, height, width] -> the same shape."""
        outputs = [x]
        for number, read in enumerate(self.sources, 1):
            shortcut = add([outputs[source] for source in read])
            outputs.append(getattr(self, f"layer{number}")(outputs[-1], shortcut))
        return outputs[-1]


def highway(network: models.highway.HighwayNet, image_shape: Sequence[int]) -> nn.Module:
    """Stages of a convolution and highway layers with max pooling between them, head."""
    features, layers = image_shape[-1], {}
    for i, (topology, width) in enumerate(zip(network.topologies, network.widths, strict=True), 1):
        if i > 1:
            layers[f"pool{i - 1}"] = nn.MaxPool2d(2)
        layers[f"stage{i}_opening"] = conv(features, width, 3, bias=True)
        layers[f"stage{i}_relu"] = nn.ReLU(inplace=True)
        layers[f"stage{i}"] = HighwayStage(topology.sources, width)
        features = width
    return sequence(
        **layers,
        head_conv=conv(features, models.highway.HEAD_FEATURES, 1, bias=True),
        head_relu=nn.ReLU(inplace=True),
        mean=Mean(),
        classifier=nn.Linear(models.highway.HEAD_FEATURES, network.num_classes),
    )


class FractalStage(Stage):
    """A stage of means; a mean that several layers read is computed once."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean that is the stage's output."""
        outputs, joins = [x], {}
        for number, read in enumerate(self.sources, 1):
            if read not in joins:
                joins[read] = add([outputs[source] for source in read])
                if len(read) > 1:
                    joins[read] = joins[read] / len(read)
            if number < len(self.sources):
                outputs.append(getattr(self, f"layer{number}")(joins[read]))
            if number == 1 and self.projection is not None:
                outputs[0] = self.projection(x)
        return joins[self.sources[-1]]


def fractalnet(network: models.fractalnet.FractalNet, image_shape: Sequence[int]) -> nn.Module:
    """Stages of conv3x3-BN-ReLU, a max pooling after each, average, classifier."""
    features, layers = image_shape[-1], {}
    for i, (topology, width) in enumerate(zip(network.topologies, network.widths, strict=True), 1):
        joined = any(0 in read and len(read) > 1 for read in topology.sources)
        projection = conv(features, width, 1) if joined else None
        inputs = [
            features if read == (0,) and (n == 0 or not joined) else width
            for n, read in enumerate(topology.sources[:-1])
        ]
        units = [sequence(conv=conv(n, width, 3), norm=NormReLU(width)) for n in inputs]
        layers[f"stage{i}"] = FractalStage(topology.sources, units, add, projection)
        layers[f"pool{i}"] = nn.MaxPool2d(2)
        features = width
    classifier = nn.Linear(features, network.num_classes)
    return sequence(**layers, mean=Mean(), classifier=classifier)
