"""The blocks F of residual networks with the activation last, and their attention."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aggnets_jax.benchmark.torch_networks.parts import concat, conv, norm_relu
from aggnets_jax.layers import residual_blocks
from aggnets_jax.layers.attention import REDUCTION
from aggnets_jax.layers.residual_blocks import EXPANSION, inner_features
from aggnets_jax.models import res2net


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
    """Scales channels by a function of their averages."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.channels = ChannelGate(features)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, features, height, width] -> the same shape."""
        return x * self.channels(x.mean((2, 3)))


class CBAM(SqueezeExcite):
    """Scales channels by averages and maxima, then positions by those over the channels."""

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


class BasicBlock(nn.Module):
    """conv3x3(width, stride)-BN-ReLU-conv3x3(width)-BN, and attention."""

    def __init__(self, inputs: int, width: int, stride: int, *, attention: str | None) -> None:
        super().__init__()
        self.features = width
        self.conv1 = conv(inputs, width, 3, stride=stride)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3)
        self.norm2 = nn.BatchNorm2d(width)
        self.attention = ATTENTIONS[attention](width)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, features, height / stride, ...]."""
        x = norm_relu(self.norm1, self.conv1(x))
        return self.attention(self.norm2(self.conv2(x)))


class Bottleneck(nn.Module):
    """conv1x1(inner)-BN-ReLU-conv3x3(inner, stride)-BN-ReLU-conv1x1(4 width)-BN, and attention.

    At stride 1 an inner shortcut, if given, adds something of the 3x3's input to its output.
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
    ) -> None:
        super().__init__()
        self.features = EXPANSION * width
        inner = inner_features(width, base_width, groups)
        self.conv1 = conv(inputs, inner, 1)
        self.norm1 = nn.BatchNorm2d(inner)
        self.conv2 = conv(inner, inner, 3, stride=stride, groups=groups)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv3 = conv(inner, self.features, 1)
        self.norm3 = nn.BatchNorm2d(self.features)
        self.inner_shortcut = inner_shortcut(inner) if inner_shortcut and stride == 1 else None
        self.attention = ATTENTIONS[attention](self.features)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, features, height / stride, ...]."""
        z = norm_relu(self.norm1, self.conv1(x))
        x = self.norm2(self.conv2(z))
        if self.inner_shortcut is not None:
            x = self.inner_shortcut(x, z)
        x = self.conv3(F.relu(x, inplace=True))
        return self.attention(self.norm3(x))


class ScaleLayer(nn.Module):
    """conv3x3-BN-ReLU."""

    def __init__(self, features: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv = conv(features, features, 3, stride=stride, groups=groups)
        self.norm = nn.BatchNorm2d(features)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, features, height, width] -> [batch, features, height / stride, ...]."""
        return norm_relu(self.norm, self.conv(x))


class Res2Block(nn.Module):
    """conv1x1-BN-ReLU-scales-conv1x1(4 width)-BN, and attention.

    Scale i reads split i and the sum of the scales that its topology says. In a block that opens a
    stage it reads split i alone, and the last split is averaged, or is one more scale.
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
        self.features, self.inner = EXPANSION * width, inner_features(width, base_width, groups)
        splits, self.stride = topology.depth + 1, stride
        opening = stride > 1 or inputs != self.features
        self.pools = opening and opening_pool
        scales = splits if opening and not opening_pool else splits - 1
        # Of the scales before it; source 0 stands for the split.
        self.sources = [() if opening else topology.sources[i] for i in range(scales)]
        self.conv1 = conv(inputs, splits * self.inner, 1)
        self.norm1 = nn.BatchNorm2d(splits * self.inner)
        self.scales = nn.ModuleDict(
            {f"layer{i + 1}": ScaleLayer(self.inner, stride, groups) for i in range(scales)}
        )
        self.conv3 = conv(splits * self.inner, self.features, 1)
        self.norm3 = nn.BatchNorm2d(self.features)
        self.attention = ATTENTIONS[attention](self.features)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, features, height / stride, ...]."""
        splits = norm_relu(self.norm1, self.conv1(x)).split(self.inner, dim=1)
        outputs = []
        for split, sources, scale in zip(splits, self.sources, self.scales.values(), strict=False):
            read = sum((outputs[source - 1] for source in sources if source), split)
            outputs.append(scale(read))
        if len(outputs) < len(splits):
            last = splits[-1]
            outputs.append(F.avg_pool2d(last, 3, self.stride, 1) if self.pools else last)
        return self.attention(self.norm3(self.conv3(concat(outputs))))


BLOCKS: Mapping[type, type[nn.Module]] = {
    residual_blocks.BasicBlock: BasicBlock,
    residual_blocks.Bottleneck: Bottleneck,
    res2net.Res2Block: Res2Block,
}
