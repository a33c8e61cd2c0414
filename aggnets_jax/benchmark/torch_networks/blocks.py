"""Blocks of residual networks: with the activation last, with attention, and micro-dense."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aggnets_jax.benchmark.torch_networks.parts import (
    NormReLU,
    Stage,
    concat,
    concatenated,
    conv,
    sequence,
)
from aggnets_jax.errors import UserError
from aggnets_jax.layers import residual_blocks
from aggnets_jax.layers.attention import REDUCTION
from aggnets_jax.layers.micro_dense_blocks import MicroDense, MicroDenseBlock
from aggnets_jax.layers.residual_blocks import EXPANSION, inner_features
from aggnets_jax.models import res2net
from aggnets_jax.models.sknet import KERNELS, SelectiveConv


class ChannelGate(nn.Module):
    """Sigmoid of the sum of linear-ReLU-linear of each pooled vector."""

    def __init__(self, features: int) -> None:
        super().__init__()
        reduced = max(1, features // REDUCTION)
        self.squeeze = nn.Linear(features, reduced)
        self.excite = nn.Linear(reduced, features)

    def forward(self, *pooled: Tensor) -> Tensor:
        """[batch, features] each -> [batch, features, 1, 1]."""
        gates = [self.excite(F.relu(self.squeeze(x), inplace=True)) for x in pooled]
        return torch.sigmoid(sum(gates[1:], gates[0]))[:, :, None, None]


class SqueezeExcite(nn.Module):
    """Channels scaled by a function of their averages."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.channels = ChannelGate(features)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, features, height, width] -> the same shape."""
        return x * self.channels(x.mean((2, 3)))


class CBAM(SqueezeExcite):
    """Channels scaled by their averages and maxima, then positions scaled likewise."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.conv = conv(2, 1, 7)
        self.norm = nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, features, height, width] -> the same shape."""
        x = x * self.channels(x.mean((2, 3)), F.adaptive_max_pool2d(x, 1).flatten(1))
        pooled = torch.cat([x.max(1, keepdim=True).values, x.mean(1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.norm(self.conv(pooled)))


ATTENTIONS = {None: lambda features: nn.Identity(), "se": SqueezeExcite, "cbam": CBAM}


def basic_block(
    inputs: int, width: int, stride: int, *, attention: str | None, base_width: int = 64
) -> nn.Module:
    """conv3x3(features, stride)-BN-ReLU-conv3x3(features)-BN, and attention."""
    features = inner_features(width, base_width, 1)
    return sequence(
        conv1=conv(inputs, features, 3, stride=stride),
        norm1=NormReLU(features),
        conv2=conv(features, features, 3),
        norm2=nn.BatchNorm2d(features),
        attention=ATTENTIONS[attention](features),
    )


class SelectiveKernel(nn.Module):
    """Convolutions beside each other, weighed channel by channel by a softmax over them."""

    def __init__(self, features: int, made: SelectiveConv, stride: int, groups: int) -> None:
        super().__init__()
        self.features, self.branches = features, range(1, len(made.kernels) + 1)
        for k, kernel in zip(self.branches, made.kernels, strict=True):
            options = dict(KERNELS[kernel])
            size = options.pop("kernel_size")
            branch = conv(features, features, size, stride=stride, groups=groups, **options)
            self.add_module(f"branch{k}_conv", branch)
            self.add_module(f"branch{k}_norm", NormReLU(features))
        hidden = max(features // made.reduction, 32)
        self.hidden = conv(features, hidden, 1)
        self.hidden_norm = NormReLU(hidden)
        self.scores = conv(hidden, len(made.kernels) * features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, features, height, width] -> [batch, features, height / stride, ...]."""
        outputs = [
            getattr(self, f"branch{k}_norm")(getattr(self, f"branch{k}_conv")(x))
            for k in self.branches
        ]
        z = self.hidden_norm(self.hidden(sum(outputs).mean((2, 3), keepdim=True)))
        weights = self.scores(z).unflatten(1, (-1, self.features)).softmax(1)
        return sum(weights[:, k] * y for k, y in enumerate(outputs))


class Bottleneck(nn.Module):
    """conv1x1(inner)-BN-ReLU-conv3x3(inner, stride)-BN-ReLU-conv1x1(4 width)-BN, and attention.

    At stride 1, the inner shortcut combines the input and output of the 3x3 convolution. With
    `conv3x3` selective kernels are in the place of the 3x3 convolution with its BN-ReLU.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int,
        *,
        attention: str | None = None,
        groups: int = 1,
        base_width: int = 64,
        inner_shortcut: type[nn.Module] | None = None,
        conv3x3: SelectiveConv | None = None,
    ) -> None:
        super().__init__()
        features, inner = EXPANSION * width, inner_features(width, base_width, groups)
        self.conv1 = conv(inputs, inner, 1)
        self.norm1 = NormReLU(inner)
        if conv3x3 is None:
            self.conv2 = conv(inner, inner, 3, stride=stride, groups=groups)
            self.norm2 = nn.BatchNorm2d(inner)
        else:
            self.conv2, self.norm2 = SelectiveKernel(inner, conv3x3, stride, groups), None
        self.conv3 = conv(inner, features, 1)
        self.norm3 = nn.BatchNorm2d(features)
        self.inner_shortcut = inner_shortcut(inner) if inner_shortcut and stride == 1 else None
        self.attention = ATTENTIONS[attention](features)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, features, height / stride, ...]."""
        z = self.norm1(self.conv1(x))
        x = self.conv2(z)
        if self.norm2 is not None:
            x = self.norm2(x)
            if self.inner_shortcut is not None:
                x = self.inner_shortcut(x, z)
            x = F.relu(x, inplace=True)
        return self.attention(self.norm3(self.conv3(x)))


class Res2Block(nn.Module):
    """conv1x1-BN-ReLU-scales-conv1x1(4 width)-BN, and attention.

    Scale i reads split i plus the sum of the earlier scales in its topology. In a block that opens
    a stage it reads only split i, and the last split is averaged, or is one more scale.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int,
        *,
        topology: Any,
        groups: int = 1,
        base_width: int,
        opening_pool: bool = True,
        attention: str | None = None,
    ) -> None:
        super().__init__()
        features, self.inner = EXPANSION * width, inner_features(width, base_width, groups)
        splits, self.stride = topology.depth + 1, stride
        opening = stride > 1 or inputs != features
        self.pools = opening and opening_pool
        scales = splits if opening and not opening_pool else splits - 1
        # Earlier scales that each scale reads; source 0 is the split itself.
        self.sources = [() if opening else topology.sources[i] for i in range(scales)]
        self.conv1 = conv(inputs, splits * self.inner, 1)
        self.norm1 = NormReLU(splits * self.inner)
        self.scales = nn.ModuleDict()
        for i in range(1, scales + 1):
            scale = conv(self.inner, self.inner, 3, stride=stride, groups=groups)
            self.scales[f"layer{i}"] = sequence(conv=scale, norm=NormReLU(self.inner))
        self.conv3 = conv(splits * self.inner, features, 1)
        self.norm3 = nn.BatchNorm2d(features)
        self.attention = ATTENTIONS[attention](features)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, features, height / stride, ...]."""
        splits = self.norm1(self.conv1(x)).split(self.inner, dim=1)
        outputs = []
        for split, sources, scale in zip(splits, self.sources, self.scales.values(), strict=False):
            read = sum((outputs[source - 1] for source in sources if source), split)
            outputs.append(scale(read))
        if len(outputs) < len(splits):
            last = splits[-1]
            outputs.append(F.avg_pool2d(last, 3, self.stride, 1) if self.pools else last)
        return self.attention(self.norm3(self.conv3(concat(outputs))))


def micro_dense_layer(inputs: int, features: int, groups: int) -> nn.Module:
    """conv1x1-BN-ReLU-conv3x3(groups)-BN-ReLU."""
    return sequence(
        conv1=conv(inputs, features, 1),
        norm1=NormReLU(features),
        conv2=conv(features, features, 3, groups=groups),
        norm2=NormReLU(features),
    )


def micro_dense_block(inputs: int, features: int, stride: int, block: MicroDense) -> nn.Module:
    """BN-conv1x1 (4x4 at stride 2)-BN-ReLU, dense layers, conv1x1 on all of them-BN(-ReLU).

    Raises:
      UserError: if the block has another aggregation than concatenation.
    """
    if block.aggregation != "concat":
        raise UserError(
            "micro-dense blocks in PyTorch have the aggregation 'concat' only, got"
            f" {block.aggregation!r}"
        )
    compressed, topology = block.compressed(inputs), block.topology
    inside = [block.width_and_groups(compressed, n) for n in range(1, topology.depth + 1)]
    *read, joined = concatenated(topology.sources, compressed, [width for width, _ in inside])
    layers = [micro_dense_layer(n, *each) for n, each in zip(read, inside, strict=True)]
    return sequence(
        input_norm=nn.BatchNorm2d(inputs),
        compress_conv=conv(inputs, compressed, 1 if stride == 1 else 4, stride=stride),
        compress_norm=NormReLU(compressed),
        layers=Stage(topology.sources, layers, concat),
        output_conv=conv(joined, features, 1),
        output_norm=(NormReLU if block.final_relu else nn.BatchNorm2d)(features),
    )


def expanded_micro_dense_block(
    inputs: int, width: int, stride: int, *, block: MicroDense, expansion: int, attention: None
) -> nn.Module:
    """Make a `micro_dense_block` of `expansion * width` channels."""
    return micro_dense_block(inputs, expansion * width, stride, block)


BLOCKS = {
    residual_blocks.BasicBlock: basic_block,
    residual_blocks.Bottleneck: Bottleneck,
    res2net.Res2Block: Res2Block,
    MicroDenseBlock: expanded_micro_dense_block,
}
"""The block by the class of ours."""


def output_features(block: type, width: int, /, base_width: int = 64, **options: Any) -> int:
    """Return the output channels of one of our blocks from its width and options."""
    if block is residual_blocks.BasicBlock:
        return inner_features(width, base_width, 1)
    return EXPANSION * width
