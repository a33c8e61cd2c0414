"""What several of the PyTorch networks are made of. Maps are [batch, channels, height, width]."""

import functools
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aggnets_jax.connectivity.topology import Sources

Aggregate = Callable[[Sequence[Tensor]], Tensor]


def conv(
    inputs: int,
    features: int,
    kernel_size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
    bias: bool = False,
) -> nn.Conv2d:
    """A square convolution that keeps the size of the map but for its stride."""
    padding = (kernel_size - 1) // 2 * dilation
    return nn.Conv2d(
        inputs, features, kernel_size, stride, padding, dilation, groups=groups, bias=bias
    )


def norm_relu(norm: nn.Module, x: Tensor) -> Tensor:
    """ReLU(norm(x)) in one map, as the backward pass of a normalisation reads its input only."""
    return F.relu(norm(x), inplace=True)


def imagenet_stem(x: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    """[batch, channels, height, width] -> [batch, features, height / 4, width / 4]."""
    return F.max_pool2d(norm_relu(norm, conv(x)), 3, stride=2, padding=1)


def concat(maps: Sequence[Tensor]) -> Tensor:
    """[m_1 || m_2 || ...] by channel."""
    return maps[0] if len(maps) == 1 else torch.cat(tuple(maps), dim=1)


def add(maps: Sequence[Tensor]) -> Tensor:
    """m_1 + m_2 + ..."""
    return functools.reduce(torch.add, maps)


def pad_channels(x: Tensor, features: int) -> Tensor:
    """Appends channels of zeros."""
    return F.pad(x, (0, 0, 0, 0, 0, features - x.shape[1]))


def padded_add(maps: Sequence[Tensor]) -> Tensor:
    """m_1 + m_2 + ..., where zeros are appended to the narrower ones."""
    features = max(x.shape[1] for x in maps)
    return add([x if x.shape[1] == features else pad_channels(x, features) for x in maps])


def concatenated(sources: Sources, first: int, widths: Sequence[int]) -> list[int]:
    """Channels that each layer, and the reader of the stage, gets by concatenation.

    Args:
      sources: of a stage.
      first: channels of its input.
      widths: channels of the outputs of its layers.
    """
    channels = [first, *widths]
    return [sum(channels[source] for source in read) for read in sources]


class Stage(nn.Module):
    """Layers `layer1`, `layer2`, ... each of which reads an aggregate of outputs before it.

    What reads all that was read before and one output more gets it joined to the aggregate so far,
    as in a residual network. An output is let go of behind its last reader, so that a forward pass
    holds no more than it needs to.
    """

    def __init__(
        self,
        sources: Sources,
        layers: Iterable[nn.Module],
        aggregate: Aggregate,
        projection: nn.Module | None = None,
    ) -> None:
        """Takes what each layer and the stage's output read, see `topology.Topology.sources`.

        Args:
          sources: `sources[l - 1]` are the outputs that layer l reads; 0 is the stage's input.
          layers: as many as there are sources, less one.
          aggregate: joins maps, in any order of joining.
          projection: makes of the input what layers behind the first read in its place.
        """
        super().__init__()
        self.sources, self.aggregate = sources, aggregate
        for number, layer in enumerate(layers, 1):
            self.add_module(f"layer{number}", layer)
        self.projection = projection if any(0 in read for read in sources[1:]) else None
        # Reader by reader: whether it goes on from the aggregate so far, the outputs that it takes,
        # and those that nobody takes again.
        first = 1 if self.projection is None else 2
        goes_on = [i >= first and read[:-1] == sources[i - 1] for i, read in enumerate(sources)]
        taken = [read[-1:] if on else read for on, read in zip(goes_on, sources, strict=True)]
        last = {source: i for i, read in enumerate(taken) for source in read}
        done = [[s for s in read if last[s] == i] for i, read in enumerate(taken)]
        self._reads = list(zip(goes_on, taken, done, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """The input of the stage -> the aggregate that is its output."""
        outputs, joined = {0: x}, None
        for number, (goes_on, taken, done) in enumerate(self._reads, 1):
            maps = [outputs[source] for source in taken]
            joined = self.aggregate([joined, *maps] if goes_on else maps)
            for source in done:
                del outputs[source]
            if number == len(self.sources):
                break
            outputs[number] = getattr(self, f"layer{number}")(joined)
            if number == 1 and self.projection is not None:
                outputs[0] = self.projection(x)
        return joined
