"""Parts of the PyTorch networks. Feature maps are [batch, channels, height, width].

Modules have the names of our parameter paths, see `weights`.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aggnets_jax.connectivity.patterns import Sources

Aggregate = Callable[[Sequence[Tensor]], Tensor]


def sequence(**layers: nn.Module | None) -> nn.Sequential:
    """Chain named layers; leave out those that are `None`."""
    return nn.Sequential(OrderedDict((k, v) for k, v in layers.items() if v is not None))


def conv(
    inputs: int, features: int, size: int, *, dilation: int = 1, bias: bool = False, **options: int
) -> nn.Conv2d:
    """Return a square convolution that keeps the size of the map, apart from its stride."""
    options |= {"padding": (size - 1) // 2 * dilation, "dilation": dilation}
    return nn.Conv2d(inputs, features, size, bias=bias, **options)


class NormReLU(nn.BatchNorm2d):
    """Batch normalisation and a ReLU in place: the backward pass only reads the input."""

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] -> the same shape."""
        return F.relu(super().forward(x), inplace=True)


class Mean(nn.Module):
    """Mean over all positions."""

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] -> [batch, channels]."""
        return x.mean((2, 3))


def pre_activated(*convs: nn.Conv2d, norm: Callable[[int], nn.Module] = NormReLU) -> nn.Sequential:
    """Return norm1-conv1-norm2-conv2-..."""
    layers = {}
    for i, each in enumerate(convs, 1):
        layers |= {f"norm{i}": norm(each.in_channels), f"conv{i}": each}
    return sequence(**layers)


def imagenet_stem(
    channels: int, features: int, norm: Callable[[int], nn.Module] = NormReLU, kernel_size: int = 7
) -> dict[str, nn.Module]:
    """Return the layers of a stem that divides the resolution by 4."""
    return {
        "stem_conv": conv(channels, features, kernel_size, stride=2),
        "stem_norm": norm(features),
        "stem_pool": nn.MaxPool2d(3, stride=2, padding=1),
    }


def concat(maps: Sequence[Tensor]) -> Tensor:
    """[m_1 || m_2 || ...] by channel."""
    return maps[0] if len(maps) == 1 else torch.cat(tuple(maps), dim=1)


def add(maps: Sequence[Tensor]) -> Tensor:
    """m_1 + m_2 + ..."""
    return functools.reduce(torch.add, maps)


def pad_channels(x: Tensor, features: int) -> Tensor:
    """Append channels of zeros."""
    return F.pad(x, (0, 0, 0, 0, 0, features - x.shape[1]))


def padded_add(maps: Sequence[Tensor]) -> Tensor:
    """m_1 + m_2 + ..., with zeros appended to the narrower maps."""
    features = max(x.shape[1] for x in maps)
    return add([x if x.shape[1] == features else pad_channels(x, features) for x in maps])


def concatenated(sources: Sources, first: int, widths: Sequence[int]) -> list[int]:
    """Return the input channels of each layer, and of the stage's output, under concatenation.

    Args:
      sources: of a stage.
      first: channels of its input.
      widths: output channels of its layers.
    """
    channels = [first, *widths]
    return [sum(channels[source] for source in read) for read in sources]


class PaddedSequence(nn.Sequential):
    """A chain of layers, some of them with a padded shortcut around them.

    Args:
      layers: in their order.
      openings: names of the layers with a shortcut; each keeps or halves the resolution.
    """

    def __init__(self, layers: Mapping[str, nn.Module], openings: Collection[str]) -> None:
        super().__init__(OrderedDict(layers))
        self.openings = openings

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] -> the output of the last layer."""
        for name, layer in self.named_children():
            y = layer(x)
            if name in self.openings:
                y = padded_add([x if x.shape[2:] == y.shape[2:] else F.avg_pool2d(x, 2), y])
            x = y
        return x


class Stage(nn.Module):
    """Layers `layer1`, `layer2`, ... that each read an aggregate of earlier outputs.

    A layer that reads one output more than the layer before extends the previous aggregate, as in
    a residual network. An output is released after its last reader, so that a forward pass holds no
    more memory than it needs.

    Args:
      sources: `sources[l - 1]` are the outputs that layer l reads, 0 is the stage's input, and the
        last entry is for the stage's output, see `topology.Topology.sources`.
      layers: one fewer than sources.
      aggregate: joins maps; must be associative.
      projection: applied to the input for all layers but the first.
    """

    def __init__(
        self,
        sources: Sources,
        layers: Iterable[nn.Module],
        aggregate: Aggregate,
        projection: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.sources, self.aggregate = sources, aggregate
        for number, layer in enumerate(layers, 1):
            self.add_module(f"layer{number}", layer)
        self.projection = projection if any(0 in read for read in sources[1:]) else None
        # For each reader: whether it extends the previous aggregate, the outputs that it takes, and
        # the outputs that no later reader takes.
        first = 1 if self.projection is None else 2
        extends = [i >= first and read[:-1] == sources[i - 1] for i, read in enumerate(sources)]
        taken = [read[-1:] if on else read for on, read in zip(extends, sources, strict=True)]
        last = {source: i for i, read in enumerate(taken) for source in read}
        done = [[s for s in read if last[s] == i] for i, read in enumerate(taken)]
        self._reads = list(zip(extends, taken, done, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Return the stage's output, the aggregate of its last sources."""
        outputs, joined = {0: x}, None
        for number, (extends, taken, done) in enumerate(self._reads, 1):
            maps = [outputs[source] for source in taken]
            joined = self.aggregate([joined, *maps] if extends else maps)
            for source in done:
                del outputs[source]
            if number == len(self.sources):
                break
            outputs[number] = getattr(self, f"layer{number}")(joined)
            if number == 1 and self.projection is not None:
                outputs[0] = self.projection(x)
        return joined
