"""Residual stages: ResNet's identity shortcuts, and DSNet's weighted normalised shortcuts."""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aggnets_jax.benchmark.torch_networks.parts import Aggregate, add
from aggnets_jax.connectivity.patterns import Sources
from aggnets_jax.layers.shortcuts import Shortcuts


def _group_norm(features: int) -> nn.GroupNorm:
    """Return the largest number of groups, at most 32 and of at least 4 channels each."""
    most = min(32, max(1, features // 4))
    groups = next(groups for groups in range(most, 0, -1) if features % groups == 0)
    return nn.GroupNorm(groups, features, affine=False)


# Normalisations N of shortcuts, without scale and shift.
NORMS = {
    "group": _group_norm,
    "layer": lambda features: nn.GroupNorm(1, features, affine=False),
    "instance": nn.InstanceNorm2d,
    "batch": lambda features: nn.BatchNorm2d(features, affine=False),
    "none": lambda features: nn.Identity(),
}

IDENTITY = Shortcuts()


class Weights(nn.Module):
    """A weight for each source and channel, initially 1."""

    def __init__(self, sources: int, features: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(sources, features))

    def forward(self, x: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """X + sum_i weights[i] * maps[i], [batch, features, height, width] each."""
        weights = self.weights.to(x.dtype)
        for weight, each in zip(weights[..., None, None], maps, strict=True):
            x = torch.addcmul(x, weight, each)
        return x


class InnerShortcut(nn.Module):
    """x + w N(z), by channel."""

    def __init__(self, features: int, norm: str, weighted: bool) -> None:
        super().__init__()
        self.norm = NORMS[norm](features)
        self.weights = nn.Parameter(torch.ones(features)) if weighted else None

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """[batch, features, height, width] each -> the same shape."""
        z = self.norm(z).to(x.dtype)
        if self.weights is None:
            return x + z
        return torch.addcmul(x, self.weights.to(x.dtype)[:, None, None], z)


class ShortcutStage(nn.Module):
    """Layers y_l = act(F_l(y_{l-1}) + shortcuts of earlier outputs); returns the last y.

    Args:
      sources: of the shortcuts of each layer, see `topology.Topology.sources`.
      blocks: F_1, F_2, ...
      shortcuts: kind of the shortcuts.
      features: channels of the blocks; needed for normalised shortcuts.
      rectified: whether act is a ReLU; else there is no activation.
      aggregate: adds maps.
    """

    def __init__(
        self,
        sources: Sources,
        blocks: Iterable[nn.Module],
        *,
        shortcuts: Shortcuts = IDENTITY,
        features: int = 0,
        rectified: bool = False,
        aggregate: Aggregate = add,
    ) -> None:
        super().__init__()
        self.sources, self.shortcuts = sources[:-1], shortcuts
        self.rectified, self.aggregate = rectified, aggregate
        self.normalised = shortcuts.aggregation == "normalised_sum"
        self.weighted = self.normalised and shortcuts.weighted
        self.read = sorted({source for read in self.sources for source in read})
        for number, (read, block) in enumerate(zip(self.sources, blocks, strict=True), 1):
            self.add_module(f"layer{number}", block)
            if self.weighted:
                self.add_module(f"weights{number}", Weights(len(read), features))
        for source in self.read if self.normalised else ():
            self.add_module(f"source{source}_norm", NORMS[shortcuts.norm](features))

    def forward(self, y: Tensor) -> Tensor:
        """[batch, channels, height, width] -> [batch, features, height, width]."""
        residual, carried, total, added = y, {}, None, None
        for number, sources in enumerate(self.sources, 1):
            newest = number - 1
            if newest in self.read:
                x = residual if self.shortcuts.sources == "blocks" else y
                norm = getattr(self, f"source{newest}_norm", None)
                # Autocast normalises groups in float32: return to the dtype of x.
                carried[newest] = x if norm is None else norm(x).to(x.dtype)
            residual = getattr(self, f"layer{number}")(y)
            maps = [carried[source] for source in sources]
            if self.weighted:
                y = getattr(self, f"weights{number}")(residual, maps)
            else:
                # Dense shortcuts extend the previous sum.
                total = self.aggregate([total, maps[-1]] if sources[:-1] == added else maps)
                added = sources
                mean = self.shortcuts.aggregation == "mean" and len(sources) > 1
                y = self.aggregate([residual, total / len(sources) if mean else total])
            y = F.relu(y, inplace=True) if self.rectified else y
        return y
