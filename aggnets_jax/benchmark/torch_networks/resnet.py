"""ResNet, ResNeXt, Wide ResNet-50-2, Res2Net, DSNet, DS2Net, and those with attention."""

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from aggnets_jax.benchmark.torch_networks.parts import conv, imagenet_stem, norm_relu, pad_channels
from aggnets_jax.benchmark.torch_networks.residual_blocks import BLOCKS
from aggnets_jax.benchmark.torch_networks.shortcuts import InnerShortcut, ShortcutStage
from aggnets_jax.models import resnet as jax_networks


class Projection(nn.Module):
    """conv1x1(features, stride)-BN."""

    def __init__(self, inputs: int, features: int, stride: int) -> None:
        super().__init__()
        self.conv = conv(inputs, features, 1, stride=stride)
        self.norm = nn.BatchNorm2d(features)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, features, height / stride, ...]."""
        return self.norm(self.conv(x))


class ResNet(nn.Module):
    """Stem, stages that a block with a projected shortcut opens, average, classifier."""

    def __init__(self, network: jax_networks.ResNet, image_shape: Sequence[int]) -> None:
        """Takes the numbers of a network, and (height, width, channels) of the images."""
        super().__init__()
        shortcuts = network.shortcuts
        self.imagenet_stem, self.padded = network.imagenet_stem, network.padded
        self.stages = len(network.shortcut_topologies)
        block = partial(BLOCKS[network.block], attention=network.attention, **network.block_options)
        if shortcuts.inner:
            inner = partial(InnerShortcut, norm=shortcuts.norm, weighted=shortcuts.weighted)
            block = partial(block, inner_shortcut=inner)

        size, stride = (7, 2) if self.imagenet_stem else (3, 1)
        features = network.width
        self.stem_conv = conv(image_shape[-1], features, size, stride=stride)
        self.stem_norm = nn.BatchNorm2d(features)
        for i, topology in enumerate(network.shortcut_topologies, 1):
            width, stride = network.width * 2 ** (i - 1), 1 if i == 1 else 2
            opening = block(features, width, stride)
            self.add_module(f"stage{i}_opening", opening)
            if not self.padded and (stride > 1 or features != opening.features):
                projection = Projection(features, opening.features, stride)
                self.add_module(f"stage{i}_projection", projection)
            features = opening.features
            blocks = [block(features, width, 1) for _ in range(topology.depth)]
            stage = ShortcutStage(
                topology.sources, blocks, shortcuts=shortcuts, features=features, rectified=True
            )
            self.add_module(f"stage{i}", stage)
        self.classifier = nn.Linear(features, network.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] -> [batch, classes]."""
        if self.imagenet_stem:
            x = imagenet_stem(x, self.stem_conv, self.stem_norm)
        else:
            x = norm_relu(self.stem_norm, self.stem_conv(x))
        for i in range(1, self.stages + 1):
            residual = getattr(self, f"stage{i}_opening")(x)
            x = F.relu(residual + self._shortcut(i, x, residual), inplace=True)
            x = getattr(self, f"stage{i}")(x)
        return self.classifier(x.mean((2, 3)))

    def _shortcut(self, stage: int, x: Tensor, residual: Tensor) -> Tensor:
        """Of the block that opens a stage."""
        if self.padded:
            stride = 1 if stage == 1 else 2
            return pad_channels(x[:, :, ::stride, ::stride], residual.shape[1])
        projection = getattr(self, f"stage{stage}_projection", None)
        return x if projection is None else projection(x)
