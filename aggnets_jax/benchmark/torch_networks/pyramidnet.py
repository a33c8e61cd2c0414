"""PyramidNet, and those with other blocks in it: Micro-Dense Nets, ResNeXt and Res2Net."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from aggnets_jax.benchmark.torch_networks.micro_dense import MicroDenseBlock
from aggnets_jax.benchmark.torch_networks.parts import conv, imagenet_stem, norm_relu, padded_add
from aggnets_jax.benchmark.torch_networks.residual_blocks import Bottleneck, Res2Block
from aggnets_jax.benchmark.torch_networks.shortcuts import ShortcutStage
from aggnets_jax.layers.micro_dense_blocks import MicroDense
from aggnets_jax.layers.residual_blocks import EXPANSION
from aggnets_jax.models import micro_dense_baselines
from aggnets_jax.models import pyramidnet as jax_networks


class PyramidBlock(nn.Module):
    """BN-conv3x3(stride)-BN-ReLU-conv3x3-BN."""

    def __init__(self, inputs: int, features: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, features, 3, stride=stride)
        self.norm2 = nn.BatchNorm2d(features)
        self.conv2 = conv(features, features, 3)
        self.norm3 = nn.BatchNorm2d(features)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, features, height / stride, ...]."""
        x = self.conv1(self.norm1(x))
        return self.norm3(self.conv2(norm_relu(self.norm2, x)))


class PyramidBottleneck(nn.Module):
    """BN-conv1x1-BN-ReLU-conv3x3(stride)-BN-ReLU-conv1x1(4 times as wide)-BN."""

    def __init__(self, inputs: int, features: int, stride: int) -> None:
        super().__init__()
        width = features // 4
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, width, 1)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride=stride)
        self.norm3 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, features, 1)
        self.norm4 = nn.BatchNorm2d(features)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, features, height / stride, ...]."""
        x = self.conv1(self.norm1(x))
        x = self.conv2(norm_relu(self.norm2, x))
        return self.norm4(self.conv3(norm_relu(self.norm3, x)))


def make_block(block: jax_networks.Block, inputs: int, features: int, stride: int) -> nn.Module:
    """The block of `features` channels that a network has."""
    if isinstance(block, jax_networks.PyramidBlock):
        kind = PyramidBottleneck if block.bottleneck else PyramidBlock
        return kind(inputs, features, stride)
    if isinstance(block, MicroDense):
        return MicroDenseBlock(inputs, features, stride, block)
    # A bottleneck's widths are a quarter of what it puts out.
    width, base_width = features // EXPANSION, block.base_width * EXPANSION
    if isinstance(block, micro_dense_baselines.ResNeXtBlock):
        return Bottleneck(inputs, width, stride, groups=block.cardinality, base_width=base_width)
    return Res2Block(inputs, width, stride, topology=block.topology, base_width=base_width)


class PyramidNet(nn.Module):
    """Stem, stages of ever wider blocks with padded shortcuts, average, classifier."""

    def __init__(self, network: jax_networks.PyramidNet, image_shape: Sequence[int]) -> None:
        """Takes the numbers of a network, and (height, width, channels) of the images."""
        super().__init__()
        self.stages, self.rectified = len(network.shortcut_topologies), network.block.rectifies_sum
        self.imagenet_stem = network.imagenet_stem
        size, stride = (7, 2) if self.imagenet_stem else (3, 1)
        self.stem_conv = conv(image_shape[-1], network.stem_features, size, stride=stride)
        self.stem_norm = nn.BatchNorm2d(network.stem_features)

        features = [network.stem_features, *network.widths]
        before = 0
        for i, topology in enumerate(network.shortcut_topologies, 1):
            if i > 1:
                opening = make_block(network.block, *features[before : before + 2], 2)
                self.add_module(f"stage{i}_opening", opening)
                before += 1
            blocks = [
                make_block(network.block, *features[n : n + 2], 1)
                for n in range(before, before + topology.depth)
            ]
            stage = ShortcutStage(
                topology.sources, blocks, rectified=self.rectified, aggregate=padded_add
            )
            self.add_module(f"stage{i}", stage)
            before += topology.depth
        self.head_norm = None if self.rectified else nn.BatchNorm2d(features[-1])
        self.classifier = nn.Linear(features[-1], network.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] -> [batch, classes]."""
        if self.imagenet_stem:
            x = imagenet_stem(x, self.stem_conv, self.stem_norm)
        else:
            x = self._activate(self.stem_norm(self.stem_conv(x)))
        for i in range(1, self.stages + 1):
            if i > 1:
                residual = getattr(self, f"stage{i}_opening")(x)
                x = self._activate(padded_add([F.avg_pool2d(x, 2), residual]))
            x = getattr(self, f"stage{i}")(x)
        if self.head_norm is not None:
            x = norm_relu(self.head_norm, x)
        return self.classifier(x.mean((2, 3)))

    def _activate(self, x: Tensor) -> Tensor:
        return F.relu(x, inplace=True) if self.rectified else x
