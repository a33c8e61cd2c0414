"""ResNet, ResNeXt, Wide ResNet-50-2, Res2Net, DSNet and DS2Net, also with attention."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from aggnets_jax.benchmark.torch_networks.parts import (
    Mean,
    NormReLU,
    conv,
    imagenet_stem,
    pad_channels,
    sequence,
)
from aggnets_jax.benchmark.torch_networks.residual_blocks import BLOCKS
from aggnets_jax.benchmark.torch_networks.shortcuts import InnerShortcut, ShortcutStage
from aggnets_jax.models import resnet as jax_networks


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


def resnet(network: jax_networks.ResNet, image_shape: Sequence[int]) -> nn.Module:
    """Stem, stages opened by a block with a projected or padded shortcut, average, classifier."""
    shortcuts, channels, features = network.shortcuts, image_shape[-1], network.width
    make_block, expansion = BLOCKS[network.block]
    block = partial(make_block, attention=network.attention, **network.block_options)
    if shortcuts.inner:
        inner = partial(InnerShortcut, norm=shortcuts.norm, weighted=shortcuts.weighted)
        block = partial(block, inner_shortcut=inner)
    layers = {"stem_conv": conv(channels, features, 3), "stem_norm": NormReLU(features)}
    if network.imagenet_stem:
        layers = imagenet_stem(channels, features)
    for i, topology in enumerate(network.shortcut_topologies, 1):
        width, stride = network.width * 2 ** (i - 1), 1 if i == 1 else 2
        inputs, features = features, expansion * width
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
