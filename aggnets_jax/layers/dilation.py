"""Dilation instead of subsampling: the same network with a finer last map.

With the output stride S, a convolution, pooling or subsampling whose output would have a larger
stride keeps all positions, and everything behind it reads positions that lie further apart by the
lost factor ("à trous": Chen et al., DeepLab, arXiv 1606.00915, Section 3.1). At every position of
the original map, the features are the original ones, unless something averages over all positions.

A network is traced twice: once as it is, to find the stride of each operation's input, and then
with these strides at hand, in the same order.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import jax

from aggnets_jax.errors import UserError

Pads = Sequence[tuple[int, int]]


class Sampling(NamedTuple):
    """How a window slides over height and width: strides, (low, high) pads, and dilations."""

    strides: Sequence[int]
    pads: Pads
    dilations: Sequence[int]


class _Recorded:
    """The strides of the operations' inputs, in the order of the trace."""

    def __init__(self, side: int) -> None:
        self.side, self.strides = side, []

    def sampling(self, height: int, window: Sequence[int], given: Sampling) -> Sampling:
        self.strides.append(self.side / height)
        return given


class _Dilated:
    """Samplings that keep the output stride."""

    def __init__(self, strides: Sequence[float], output_stride: int) -> None:
        self._strides, self._output_stride = iter(strides), output_stride

    def sampling(self, height: int, window: Sequence[int], given: Sampling) -> Sampling:
        stride = next(self._strides, None)
        if stride is None or stride != int(stride):
            raise UserError("maps have sizes that do not divide the image's")
        rate = max(1, int(stride) // self._output_stride)
        keeps = max(given.strides) > 1 and stride * max(given.strides) > self._output_stride
        if keeps and stride < self._output_stride:
            raise UserError(f"one operation has the stride {max(given.strides)}")
        dilations = tuple(rate * n for n in given.dilations)
        pads = tuple((rate * low, rate * high) for low, high in given.pads)
        if keeps:
            spans = [(n - 1) * d for n, d in zip(window, dilations, strict=True)]
            pads = tuple((low, span - low) for (low, _), span in zip(pads, spans, strict=True))
        return Sampling((1, 1) if keeps else given.strides, pads, dilations)

    @property
    def finished(self) -> bool:
        return next(self._strides, None) is None


# A user context is part of jit's cache key: functions are traced again when its value changes.
_active = jax.make_user_context(None)


@contextmanager
def recording(side: int) -> Iterator[list[float]]:
    """Yield the list of the strides of all inputs, for images of this side, that fills up."""
    recorded = _Recorded(side)
    with _active(recorded):
        yield recorded.strides


@contextmanager
def dilated(strides: Sequence[float], output_stride: int) -> Iterator[None]:
    """Trace a network, whose `strides` were recorded, with an output stride.

    Raises:
      UserError: if its strides don't allow it.
    """
    plan = _Dilated(strides, output_stride)
    with _active(plan):
        yield
    if not plan.finished:
        raise UserError("its operations depend on their maps' sizes")


def sampling_of(height: int, window: Sequence[int], given: Sampling) -> Sampling:
    """Return how a window slides over a map of this height: as given, unless within `dilated`."""
    return _active.value.sampling(height, window, given) if _active.value else given
